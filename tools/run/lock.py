"""One run at a time in a folder."""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backbone.errors import InputError
from tools.io.files import remove_strays, unwritable

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

NAME = ".lock"
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What network filesystems without locks answer; a run there goes on unguarded."""


@contextmanager
def lock_folder(
    folder: Path, *, is_main: bool, use: str = "trains into this folder", cure: str = "choose another run.out"
) -> Iterator[None]:
    """Keeps a run's folder for this run while it is entered, and deletes what killed runs left half-written there.

    The system gives the lock back when the process ends, however it ends, so that a killed run can be resumed at once.
    The lock is one that child processes do not inherit: loader workers may outlive a killed run by seconds.

    Arguments:
        is_main: only a run's main process takes the lock, for all of them.
        use, cure: what another process does there, and what to do about it, for the message.

    Raises:
        InputError: another process uses the folder, or it cannot be made.
    """
    if not is_main or fcntl is None:
        yield
        return
    path = folder / NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _open_locked(path, use, cure)
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        remove_strays(folder)
        yield
    finally:
        with contextlib.suppress(OSError):  # the folder may have gone
            path.unlink()  # before the lock is given back: afterwards it may be another's
        os.close(handle)
        with contextlib.suppress(OSError):  # what was refused before its first step leaves no empty folder
            folder.rmdir()


def _open_locked(path: Path, use: str, cure: str) -> int:
    """The locked lock file, which says whose it is."""
    assert fcntl is not None  # checked by the caller
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            owner = os.read(handle, 200).decode(errors="replace").strip()
            os.close(handle)
            raise InputError(
                f"{path.parent}: another run ({owner or 'just starting'}) {use}; wait for its end, or {cure}"
            ) from None
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                os.close(handle)
                raise
        if path.exists() and path.stat().st_ino == os.fstat(handle).st_ino:
            os.ftruncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
            return handle
        os.close(handle)  # its owner ended and deleted it between our opening and locking

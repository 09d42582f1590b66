"""Writes a page that runs a segmenter, a detector or both in the browser, on pictures, clips and the camera.

    python -m tools.browser --weights best.safetensors page
    python -m tools.browser --weights seg.safetensors --weights det.safetensors page --size 320 512
    python -m tools.browser --weights best.safetensors page --serve 8000

OUT is a folder of plain files that any static server serves, from any path; nothing that the page shows leaves it, and
it loads nothing from elsewhere. ONNX Runtime runs the models: on WebGPU where the browser has it, else by WebAssembly.
Its files are fetched once by npm and kept with the weights; --runtime names them on a machine without a network.

--serve opens the page on this machine with the headers that let WebAssembly use threads; without them it uses one.
"""

import argparse
from pathlib import Path

from backbone.errors import InputError
from tools.io.console import command_parser, console, run

SIZE = (256, 512)
"""Of a segmenter's input, height and width in pixels."""
SIDES = (32, 2048)
PORT = 8000


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line; whatever can be refused without reading files is."""
    parser = command_parser("browser", __doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder; files of an earlier page are replaced")
    parser.add_argument(
        "--weights",
        action="append",
        required=True,
        type=Path,
        metavar="FILE",
        help="trained model; for both tasks a joint network, or repeat",
    )
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        default=SIZE,
        metavar=("H", "W"),
        help=f"height and width of a segmenter's input in pixels; default: {SIZE[0]} {SIZE[1]}",
    )
    parser.add_argument("--runtime", type=Path, metavar="FOLDER", help="the unpacked npm package of the runtime")
    parser.add_argument(
        "--serve", nargs="?", type=int, const=PORT, metavar="PORT", help=f"serve the page here; default: {PORT}"
    )
    arguments = parser.parse_args(argv)
    if not all(SIDES[0] <= side <= SIDES[1] for side in arguments.size):
        raise InputError(
            f"--size {arguments.size[0]} {arguments.size[1]}: sides must be {SIDES[0]} to {SIDES[1]} pixels"
        )
    if arguments.serve is not None and not 0 <= arguments.serve <= 65535:
        raise InputError(f"--serve {arguments.serve}: a port is a number from 0 to 65535")
    if arguments.out.exists() and not arguments.out.is_dir():
        raise InputError(f"{arguments.out}: is a file; give a folder for the page")
    return arguments


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    from tools.browsing.runtime import find_runtime
    from tools.browsing.server import make_server

    runtime = find_runtime(arguments.runtime)
    # After the runtime, which may be missing: torch takes seconds to import.
    from tools.browsing.folder import write_folder

    out = arguments.out
    for entry in write_folder(out, arguments.weights, size_hw=tuple(arguments.size), runtime=runtime):
        height, width = entry["size"]
        console.print(
            f"{out / entry['file']}: {' and '.join(entry['tasks'])}, network input {height}x{width}", soft_wrap=True
        )
    if arguments.serve is None:
        console.print(
            f"to open it: python -m http.server -d {out} (one thread), or the same command with --serve", soft_wrap=True
        )
        return 0
    server = make_server(out, arguments.serve)
    console.print(f"http://{server.server_address[0]}:{server.server_port}/ shows it; Ctrl-C ends", soft_wrap=True)
    with server:
        server.serve_forever()
    return 0


if __name__ == "__main__":
    run(main)

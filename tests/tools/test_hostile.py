"""Files that others made to do harm: none runs code, leaves its folder, reads a variable, or takes long or much memory.

Each is read in a copy of this process, which ends with one line of an InputError, within two seconds of the processor
and 300 MB. Elsewhere are archives (tests/backbone/test_publishers.py), names of images and faulty annotations
(tests/det/test_faults.py), images (tests/seg/test_faults.py), ONNX's external files (tests/tools/engines) and text in
reports (tests/tools/test_report_det.py).
"""

import builtins
import json
import os
import pickle
import struct
import time
import warnings
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import backbone
import det
from backbone.weights.preprocessing import published_name
from seg.data.folder import read_classes
from seg.data.polygons import polygons_size
from tests.builders.runs import command
from tools.io.leave_out import read_leave_out
from tools.io.model_file import load_description
from tools.predict import load
from tools.publishing.metrics import read_metrics
from tools.run.checkpoint import load_newest
from tools.run.config import DetConfig, SegConfig
from tools.run.config import load as load_config

SECRET = "7f3c-the-value-of-a-variable"
SECONDS, MEGABYTES = 2, 300
DEEP = 200_000
MODEL = {"task": "segmentation", "model": {"backbone": "mobilenet_v3_small", "num_classes": 2}, "classes": ["a", "b"]}
STATE = {"step": 1, "model": {}, "optimizer": {}, "config": {}}


class Case(NamedTuple):
    """A file, and what reads it."""

    name: str
    content: object  # bytes, text, or a function of the path that writes it
    read: object  # of the path


class Evil:
    """What calls a function of its choice when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def payload(path):
    return Evil(os.system, f"touch {path.parent / 'ran'}")


def plain_pickle(path):
    path.write_bytes(pickle.dumps({"a": payload(path)}, 2))


def torch_file(value):
    def write(path):
        torch.save(value(path), path)

    return write


def compressed_bomb(path):
    """An archive like torch's whose tensor is 420 MB of zeros in less than one."""
    torch.save({"a": torch.zeros(4)}, path.with_suffix(".small"))
    with (
        zipfile.ZipFile(path.with_suffix(".small")) as small,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as big,
    ):
        for name in small.namelist():
            if name.endswith("/data/0"):
                with big.open(name, "w", force_zip64=True) as entry:
                    for _ in range(25):
                        entry.write(bytes(2**24))
            else:
                big.writestr(name, small.read(name))


def safetensors(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(shape, begin, end, kind="F32"):
    return {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}


def described(description):
    text = description if isinstance(description, str) else json.dumps(description)
    return safetensors({"__metadata__": {"taproot": text}, "a": tensor([1], 0, 4)}, bytes(4))


def model(**changes):
    return described(MODEL | {"model": MODEL["model"] | changes})


def link_to_secret(path):
    (path.parent.parent / "secret").write_text(SECRET)
    path.symlink_to(path.parent.parent / "secret")


def resume(path):
    return load_newest(path.parent)


def seg_config(path):
    return load_config(SegConfig, path, [])


def det_config(path):
    return load_config(DetConfig, path, [])


def annotations(path):
    return det.load_ground_truth(path)


def polygons(path):
    return polygons_size(path)


def hub(path):
    return published_name(path.with_name("model.safetensors"))


def metrics(path):
    return read_metrics(path, path.with_name("best.safetensors"), MODEL)


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)

CASES = [
    Case("plain.pth", plain_pickle, backbone.read_weights),
    Case("system.pth", torch_file(lambda path: {"a": payload(path)}), backbone.read_weights),
    Case(
        "exec.pt",
        torch_file(lambda path: Evil(exec, f"open({str(path.parent / 'ran')!r}, 'w')")),
        backbone.read_weights,
    ),
    Case("eval.pt", torch_file(lambda path: {"state_dict": {"a": Evil(eval, "1 + 1")}}), backbone.read_weights),
    Case("import.pt", torch_file(lambda path: Evil(builtins.__import__, "antigravity")), backbone.read_weights),
    Case("getattr.pt", torch_file(lambda path: Evil(getattr, "text", "upper")), backbone.read_weights),
    Case("object.pt", torch_file(lambda path: {"a": Path("x")}), backbone.read_weights),
    Case("evil.pdparams", plain_pickle, backbone.read_weights),
    Case("length.pth", b"\x80\x02X\xff\xff\xff\x7fabc.", backbone.read_weights),
    Case("marks.pth", b"\x80\x02" + b"(" * 100_000, backbone.read_weights),
    Case("nested.pth", b"\x80\x02" + b"]" * DEEP + b"a" * (DEEP - 1) + b".", backbone.read_weights),
    Case("bomb.pth", compressed_bomb, backbone.read_weights),
    Case("zip.pth", b"PK\x03\x04" + b"\xff" * 60, backbone.read_weights),
    Case("last.pt", plain_pickle, resume),
    Case("last.pt", torch_file(lambda path: STATE | {"a": payload(path)}), resume),
    Case("last.pt", torch_file(lambda path: STATE | {"a": Evil(getattr, "text", "upper")}), resume),
    Case("last.pt", compressed_bomb, resume),
    Case("huge.safetensors", safetensors({}, length=2**63), backbone.read_weights),
    Case("longer.safetensors", safetensors({}, length=10_000), backbone.read_weights),
    Case("spaces.safetensors", safetensors(b" " * 2**24 + b"{}"), load_description),
    Case("text.safetensors", safetensors(b"os.system('true')"), load_description),
    Case("overflow.safetensors", safetensors({"a": tensor([2**40, 2**40], 0, 4)}, bytes(4)), backbone.read_weights),
    Case("beyond.safetensors", safetensors({"a": tensor([2**20], 0, 2**22)}, bytes(4)), backbone.read_weights),
    Case("negative.safetensors", safetensors({"a": tensor([-1], -4, 0)}, bytes(4)), backbone.read_weights),
    Case(
        "overlap.safetensors", safetensors({"a": tensor([1], 0, 4), "b": tensor([1], 0, 4)}, bytes(4)), load_description
    ),
    Case("kind.safetensors", safetensors({"a": tensor([1], 0, 4, "PICKLE")}, bytes(4)), backbone.read_weights),
    Case("nested.safetensors", described("[" * DEEP), load_description),
    Case("nested.safetensors", described('{"model": ' * DEEP), load_description),
    Case("code.safetensors", model(backbone="os.system"), load),
    Case("code.safetensors", model(head="__import__"), load),
    Case("keyword.safetensors", model(__class__="os.system"), load),
    Case("classes.safetensors", model(num_classes=10**9), load),
    Case("negative.safetensors", model(num_classes=-1), load),
    Case("wide.safetensors", model(width=1e9), load),
    Case("nan.safetensors", model(width=float("nan")), load),
    Case("kind.safetensors", model(num_classes=[1] * 100), load),
    Case("task.safetensors", described(MODEL | {"task": "os.system"}), load),
    Case("python.yaml", "run: !!python/object/apply:os.system ['touch ran']", seg_config),
    Case("new.yaml", "run: !!python/object/new:subprocess.Popen [['touch', 'ran']]", det_config),
    Case("name.yaml", "run: {out: !!python/name:os.environ }", seg_config),
    Case("variable.yaml", "run: {out: '${oc.env:TAPROOT_SECRET}'}", seg_config),
    Case("variable.yaml", "weights: '${oc.decode:${oc.env:TAPROOT_SECRET}}'", det_config),
    Case("target.yaml", "model: {_target_: os.system, command: touch ran}", seg_config),
    Case("more.yaml", "augment: {more: [{name: __import__, p: 1}]}", seg_config),
    Case("laughs.yaml", LAUGHS, seg_config),
    Case("nested.yaml", "a: " + "[" * DEEP, seg_config),
    Case("nested.yaml", "{a: " * DEEP, seg_config),
    Case("twice.yaml", "run: {out: a}\nrun: {out: /etc}", seg_config),
    Case("classes.yaml", "classes: !!python/object/apply:os.system ['touch ran']", read_classes),
    Case("classes.yaml", LAUGHS, read_classes),
    Case("classes.yaml", "classes: " + "[" * DEEP, read_classes),
    Case("boxes.json", "[" * DEEP, annotations),
    Case("boxes.json", '{"a":' * DEEP, annotations),
    Case("street_gtFine_polygons.json", "[" * DEEP, polygons),
    Case("street_gtFine_polygons.json", '{"imgHeight": 1000000, "imgWidth": 1000000, "objects": []}', polygons),
    Case("config.json", "[" * DEEP, hub),
    Case("metrics.json", "[" * DEEP, metrics),
    Case("list.txt", b"\xff\xfe" * 1000, lambda path: read_leave_out(str(path), ".")),
    Case("link.safetensors", link_to_secret, load_description),
]


@pytest.mark.parametrize("case", CASES, ids=[f"{number}-{case.name}" for number, case in enumerate(CASES)])
def test_a_hostile_file_is_refused_in_one_line(tmp_path, monkeypatch, case):
    monkeypatch.setenv("TAPROOT_SECRET", SECRET)
    folder = tmp_path / "root"
    folder.mkdir()
    monkeypatch.chdir(folder)
    path = folder / case.name
    if callable(case.content):
        case.content(path)
    elif isinstance(case.content, bytes):
        path.write_bytes(case.content)
    else:
        path.write_text(case.content)
    before = sorted(tmp_path.rglob("*"))
    outcome = read_apart(case, path)
    assert outcome["raised"] == "InputError", outcome
    assert "\n" not in outcome["message"] and SECRET not in outcome["message"]
    assert len(outcome["message"]) < 2000
    assert sorted(tmp_path.rglob("*")) == before
    assert outcome["seconds"] < SECONDS and outcome["megabytes"] < MEGABYTES, outcome


def read_apart(case, path):
    """What came of reading a file in a copy of this process: the exception, processor seconds, the growth of memory."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks: the threads of a test process hold no locks
        child = os.fork()
    if child == 0:
        outcome = {"raised": "nothing", "message": ""}
        try:
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
            start, held = time.process_time(), memory("VmRSS")
            try:
                case.read(path)
            except BaseException as error:
                outcome = {"raised": type(error).__name__, "message": str(error)}
            outcome |= {"seconds": time.process_time() - start, "megabytes": memory("VmHWM") - held}
            os.write(writer, json.dumps(outcome).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0 and text, f"the reading process died ({status})"
    return json.loads(text)


def memory(name):
    """A line of this process's status, MB."""
    return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0]) / 1000


def test_the_payload_would_have_been_seen(tmp_path):
    """What these files hold does run where a reader lets it."""
    path = tmp_path / "system.pth"
    torch.save({"a": payload(path)}, path)
    torch.load(path, weights_only=False)
    assert (tmp_path / "ran").exists()


def test_no_variable_of_the_environment_is_in_what_a_run_leaves(world, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCESS_TOKEN", SECRET)
    main, arguments = command("seg", world, tmp_path / "run")
    assert main([*arguments, "run.steps=2"]) == 0
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(written) >= 4 and not any(SECRET.encode() in path.read_bytes() for path in written)

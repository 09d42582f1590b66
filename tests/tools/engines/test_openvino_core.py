"""Signals reach a process in which models of OpenVINO have ended."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
PROGRAM = """
import gc, os, signal, sys
from pathlib import Path
import openvino
from openvino import opset13 as ops
from tools.engines.sessions import open_openvino

image = ops.parameter([1, 8, 8, 3], openvino.Type.u8, name="image")
image.output(0).set_names({"image"})
path = Path(sys.argv[1]) / "model.xml"
openvino.save_model(openvino.Model([ops.relu(ops.convert(image, "f32"))], [image]), path)
opened = [open_openvino(path) for _ in range(3)]
while opened:
    opened.pop(0)
    gc.collect()
signal.signal(signal.SIGUSR1, lambda *_: print("heard"))
os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_a_signal_is_heard_after_models_have_ended_in_any_order(tmp_path):
    line = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    run = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout) == (0, "heard\n"), run.stderr[-2000:]

"""Which engine runs a model: what is installed, what fits the device, and which is the fastest; free of torch."""

from backbone.errors import InputError, check_choice
from tools.io.packages import missing, require
from tools.options import ENGINES

MODULES = {
    "openvino": ("openvino",),
    "onnxruntime": ("onnxruntime", "onnx", "onnxscript"),
}
"""The modules that a runtime needs."""
RUNTIMES_OF_AUTO = ("openvino", "onnxruntime")
"""The fastest first."""
EXTRAS = {"openvino": "openvino", "onnxruntime": "onnx"}


def choose_engine(engine: str, device_type: str) -> str:
    """The engine that is meant by a name of `ENGINES`.

    On a CPU "auto" is the first of `RUNTIMES_OF_AUTO` that is installed, else torch; on any other device torch in
    float32, as "compiled" computes in half precision there.

    Arguments:
        device_type: "cpu", "cuda" and the like.

    Raises:
        InputError: the engine is unknown, not installed, or does not run on the device.
    """
    check_choice("engine", engine, ENGINES)
    if engine == "auto":
        on_cpu = device_type == "cpu"
        return next((name for name in RUNTIMES_OF_AUTO if on_cpu and is_installed(name)), "torch")
    if engine in MODULES:
        check_installed(engine)
        if device_type != "cpu":
            raise InputError(f"engine {engine}: runs on the CPU, not on {device_type}; leave the device out")
    return engine


def check_installed(engine: str) -> None:
    """Raises an InputError that says what to install where a runtime is missing."""
    require(f"engine {engine}", MODULES[engine], f"run pip install 'taproot[{EXTRAS[engine]}]'")


def is_installed(engine: str) -> bool:
    """Whether all that a runtime needs is installed."""
    return not missing(MODULES[engine])

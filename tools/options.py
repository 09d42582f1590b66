"""What can be chosen in the tools, by name; free of torch, for command lines."""

ENGINES = ("auto", "torch", "compiled", "onnxruntime", "openvino")
"""What runs a model, see `tools.predict.load`."""
FORMATS = ("onnx", "openvino", "torch", "executorch", "litert", "coreml", "ncnn")
"""What a model can be exported to, see `tools.exporting`."""
OUTPUTS = ("final", "raw")
"""What an exported graph gives, see `tools.exporting.graph`."""
CHANNELS = ("bgr", "rgb")
"""Orders of the colors in an exported graph's input."""
VIEWS = ("overlay", "split", "blink", "panoptic")
"""How a video shows frame and drawing, see `tools.streams.overlay`."""
TRACKERS = ("bytetrack", "cbiou", "ocsort", "sort")
"""What follows objects through a video, see `tools.tracking.tracker`."""


def class_names(text: str) -> tuple[str, ...]:
    """Class names from a command line, separated by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())

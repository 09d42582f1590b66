"""What can be chosen in the tools, by name; free of torch, for command lines."""

from backbone.errors import InputError

JOINT = "joint"
"""The task of a network with several heads, as the header of its file has it, see `tools.joint`."""
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


def network_sizes(given: list[list[int]] | None, num_models: int) -> tuple[tuple[int, int] | int, ...]:
    """The sizes of `--size`, which stands once for all models or as often as `--weights`, in the same order.

    Arguments:
        given: of each time the option stands, height and width or the longer side, pixels; None: it does not.

    Returns:
        One size for each model, none if none was given.

    Raises:
        InputError: more than two numbers at once, or another number of sizes than models.
    """
    if given is None:
        return ()
    for sides in given:
        if len(sides) > 2:
            raise InputError(f"--size {' '.join(map(str, sides))}: give height and width, or one number")
    if len(given) not in (1, num_models):
        raise InputError(f"--size stands {len(given)} times for {num_models} models; give it once, or for each model")
    sizes = [sides[0] if len(sides) == 1 else (sides[0], sides[1]) for sides in given]
    return tuple(sizes * num_models if len(sizes) == 1 else sizes)


def class_names(text: str) -> tuple[str, ...]:
    """Class names from a command line, separated by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())

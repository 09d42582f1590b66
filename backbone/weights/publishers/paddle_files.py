"""PaddlePaddle's files: fixed addresses without a hash, each checked against its first download on this machine."""

import os
import tempfile
from pathlib import Path

from backbone.errors import InputError
from backbone.weights.publishers import cache
from backbone.weights.publishers.download import download

PADDLECLAS = "https://paddle-imagenet-models-name.bj.bcebos.com/dygraph/legendary_models"
PADDLESEG = "https://paddleseg.bj.bcebos.com/dygraph/cityscapes"
PADDLEDETECTION = "https://paddledet.bj.bcebos.com/models"
PADDLEDETECTION_MOBILE = "https://paddlemodels.bj.bcebos.com/object_detection/mobile_models"
ADDRESSES = {
    "paddle/mobilenet_v3_large_ssld": f"{PADDLECLAS}/MobileNetV3_large_x1_0_ssld_pretrained.pdparams",
    "paddle/mobilenet_v3_small_ssld": f"{PADDLECLAS}/MobileNetV3_small_x1_0_ssld_pretrained.pdparams",
    "paddle/lraspp_large_cityscapes": (
        f"{PADDLESEG}/lraspp_mobilenetv3_cityscapes_1024x512_80k_large_kernel/model.pdparams"
    ),
    "paddle/picodet_large_coco": f"{PADDLEDETECTION}/picodet_mobilenetv3_large_1x_416_coco.pdparams",
    "paddle/ssdlite_large_coco": f"{PADDLEDETECTION_MOBILE}/ssdlite_mobilenet_v3_large.pdparams",
    "paddle/ssdlite_small_coco": f"{PADDLEDETECTION_MOBILE}/ssdlite_mobilenet_v3_small.pdparams",
}


def find(name: str) -> Path | None:
    """The file in our cache, None if it is not there.

    Raises:
        InputError: no file has this name.
    """
    if name not in ADDRESSES:
        raise InputError(f"{name}: no such file of Paddle's; valid: {', '.join(ADDRESSES)}")
    path = _path(name)
    return path if path.is_file() else None


def fetch(name: str) -> Path:
    """Downloads the file into our cache.

    Raises:
        InputError: it does not arrive whole, or is another one than at the first time on this machine.
    """
    path = _path(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as own:
            arrived = Path(own) / path.name
            cache.check_first_digest(name, path, download(name, ADDRESSES[name], arrived, place=path))
            os.replace(arrived, path)
    except OSError as error:
        raise InputError(
            f"{name}: {path.parent} cannot be written ({error.strerror or error}); make it writable or make room, "
            f"or set {cache.VARIABLE} to another folder"
        ) from error
    return path


def _path(name: str) -> Path:
    """Where the file lies: under its own name, or its folder's where that is model.pdparams, as PaddleSeg's all are."""
    *_, folder, file_name = ADDRESSES[name].split("/")
    return cache.ours() / "paddle" / (f"{folder}.pdparams" if file_name == "model.pdparams" else file_name)

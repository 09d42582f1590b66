"""Published weights by name: what each is, and where its file lies on this machine; free of torch.

    efficientnet_lite0                           from an installed package (extra `pretrained`)
    torchvision/mobilenet_v3_large[.TAG]         torchvision's table, torch's cache
    timm/mobilenetv3_large_100.ra_in1k[@REV]     Hugging Face's hub (extra `hub`)
    hub/OWNER/REPOSITORY[@REV]                   the same: a model that was trained with this suite
    deeplab/lraspp_large_cityscapes              the authors' archives, our cache (TAPROOT_CACHE)
    tensorflow/ssdlite_large_coco
    paddle/mobilenet_v3_large_ssld               PaddlePaddle's files, our cache

Nothing is fetched that was not named, and nothing a second time: what is on this machine is used as it is.
"""

import difflib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from safetensors import SafetensorError, safe_open

from backbone.errors import InputError
from backbone.weights.description import read_header
from backbone.weights.publishers import archives, hub, packages, paddle_files, torchvision_files

PUBLISHERS = {
    "deeplab": archives,
    "hub": hub,
    "paddle": paddle_files,
    "tensorflow": archives,
    "timm": hub,
    "torchvision": torchvision_files,
}
"""By what a name begins with. Each has `find(name)`, a path or None, and `fetch(name)`."""

TERMS = {
    "Cityscapes": "trained on Cityscapes, whose terms allow non-commercial use only: "
    "https://www.cityscapes-dataset.com/license",
    "ImageNet": "trained on ImageNet, whose images are for non-commercial research and education: "
    "https://www.image-net.org/download",
}
"""Of data, beside the licence that the publisher gives the weights."""

UNKNOWN_TERMS = "for licence and data see the publisher's page"


class Published(NamedTuple):
    """Weights that have a name."""

    name: str
    network: str
    data: str  # that they were trained on last
    score: str  # the publisher's, of `data`'s validation set
    megabytes: float | None  # of what is fetched; None: not known
    licence: str  # the publisher's


APACHE, BSD = "Apache-2.0", "BSD-3-Clause"
PUBLISHED = (
    Published("efficientnet_lite0", "efficientnet_lite0", "ImageNet", "top-1 75.1", 18.8, APACHE),
    Published("efficientnet_lite1", "efficientnet_lite1", "ImageNet", "top-1 76.7", 21.9, APACHE),
    Published("efficientnet_lite2", "efficientnet_lite2", "ImageNet", "top-1 77.6", 24.7, APACHE),
    Published("torchvision/mnasnet0_5", "mnasnet_b1, width 0.5", "ImageNet", "top-1 67.7", 8.6, BSD),
    Published("torchvision/mnasnet0_75", "mnasnet_b1, width 0.75", "ImageNet", "top-1 71.2", 12.3, BSD),
    Published("torchvision/mnasnet1_0", "mnasnet_b1", "ImageNet", "top-1 73.5", 16.9, BSD),
    Published("torchvision/mnasnet1_3", "mnasnet_b1, width 1.3", "ImageNet", "top-1 76.5", 24.2, BSD),
    Published("torchvision/mobilenet_v2", "mobilenet_v2", "ImageNet", "top-1 72.2", 13.6, BSD),
    Published("torchvision/mobilenet_v3_large", "mobilenet_v3_large", "ImageNet", "top-1 75.3", 21.1, BSD),
    Published("torchvision/mobilenet_v3_small", "mobilenet_v3_small", "ImageNet", "top-1 67.7", 9.8, BSD),
    Published(
        "torchvision/lraspp_mobilenet_v3_large",
        "LR-ASPP, mobilenet_v3_large",
        "COCO, VOC's classes",
        "mIoU 57.9",
        12.5,
        BSD,
    ),
    Published("torchvision/ssdlite320_mobilenet_v3_large", "SSDLite, mobilenet_v3_large", "COCO", "AP 21.3", 13.4, BSD),
    Published("timm/efficientnet_lite0.ra_in1k", "efficientnet_lite0", "ImageNet", "", 18.8, APACHE),
    Published("timm/fbnetc_100.rmsp_in1k", "fbnet_c", "ImageNet", "top-1 75.1", 22.5, APACHE),
    Published("timm/mnasnet_100.rmsp_in1k", "mnasnet_b1", "ImageNet", "top-1 74.7", 17.7, APACHE),
    Published("timm/mobilenetv1_100.ra4_e3600_r224_in1k", "mobilenet_v1", "ImageNet", "top-1 75.4", 17.0, APACHE),
    Published("timm/mobilenetv2_100.ra_in1k", "mobilenet_v2", "ImageNet", "top-1 72.9", 14.2, APACHE),
    Published("timm/mobilenetv3_large_100.ra_in1k", "mobilenet_v3_large", "ImageNet", "top-1 75.8", 22.0, APACHE),
    Published(
        "timm/mobilenetv3_large_100.ra4_e3600_r224_in1k", "mobilenet_v3_large", "ImageNet", "top-1 76.3", 22.0, APACHE
    ),
    Published(
        "timm/mobilenetv3_large_100.miil_in21k_ft_in1k", "mobilenet_v3_large", "ImageNet", "top-1 77.9", 22.0, APACHE
    ),
    Published("timm/mobilenetv3_small_100.lamb_in1k", "mobilenet_v3_small", "ImageNet", "top-1 67.6", 10.2, APACHE),
    Published(
        "timm/mobilenetv4_conv_small.e2400_r224_in1k", "mobilenet_v4_conv_small", "ImageNet", "top-1 73.8", 15.2, APACHE
    ),
    Published(
        "timm/mobilenetv4_conv_medium.e500_r256_in1k",
        "mobilenet_v4_conv_medium",
        "ImageNet",
        "top-1 79.9",
        39.1,
        APACHE,
    ),
    Published("timm/semnasnet_100.rmsp_in1k", "mnasnet_a1", "ImageNet", "top-1 75.5", 15.7, APACHE),
    Published("timm/spnasnet_100.rmsp_in1k", "single_path_nas", "ImageNet", "top-1 74.1", 17.8, APACHE),
    Published("timm/tf_efficientnet_lite3.in1k", "efficientnet_lite3", "ImageNet", "top-1 79.8", 33.1, APACHE),
    Published("timm/tf_efficientnet_lite4.in1k", "efficientnet_lite4", "ImageNet", "top-1 81.5", 52.5, APACHE),
    Published("timm/tf_mobilenetv3_large_100.in1k", "mobilenet_v3_large", "ImageNet", "top-1 75.5", 22.0, APACHE),
    Published("timm/tf_mobilenetv3_small_100.in1k", "mobilenet_v3_small", "ImageNet", "top-1 67.9", 10.2, APACHE),
    Published(
        "deeplab/lraspp_large_cityscapes", "LR-ASPP, mobilenet_v3_large", "Cityscapes", "mIoU 72.4", 17.0, APACHE
    ),
    Published("deeplab/lraspp_small_cityscapes", "LR-ASPP, mobilenet_v3_small", "Cityscapes", "mIoU 69.0", 5.0, APACHE),
    Published("tensorflow/mobilenet_v3_large", "mobilenet_v3_large", "ImageNet", "top-1 75.2", None, APACHE),
    Published(
        "tensorflow/mobilenet_v3_large_075", "mobilenet_v3_large, width 0.75", "ImageNet", "top-1 73.3", None, APACHE
    ),
    Published(
        "tensorflow/mobilenet_v3_large_minimalistic",
        "mobilenet_v3_large_minimalistic",
        "ImageNet",
        "top-1 72.3",
        None,
        APACHE,
    ),
    Published("tensorflow/mobilenet_v3_small", "mobilenet_v3_small", "ImageNet", "top-1 67.5", None, APACHE),
    Published(
        "tensorflow/mobilenet_v3_small_075", "mobilenet_v3_small, width 0.75", "ImageNet", "top-1 65.4", None, APACHE
    ),
    Published(
        "tensorflow/mobilenet_v3_small_minimalistic",
        "mobilenet_v3_small_minimalistic",
        "ImageNet",
        "top-1 61.9",
        None,
        APACHE,
    ),
    Published("paddle/mobilenet_v3_large_ssld", "mobilenet_v3_large_randl", "ImageNet", "top-1 79.0", 21.0, APACHE),
    Published("paddle/mobilenet_v3_small_ssld", "mobilenet_v3_small_paddle", "ImageNet", "top-1 71.3", 12.0, APACHE),
    Published(
        "paddle/lraspp_large_cityscapes", "LR-ASPP, mobilenet_v3_large_randl", "Cityscapes", "mIoU 73.2", None, APACHE
    ),
    Published("paddle/picodet_large_coco", "Pico-128, mobilenet_v3_large_randl", "COCO", "AP 35.6", None, APACHE),
    Published("paddle/ssdlite_large_coco", "SSDLite, mobilenet_v3_large_randl", "COCO", "AP 23.3", None, APACHE),
    Published("paddle/ssdlite_small_coco", "SSDLite, mobilenet_v3_small_paddle", "COCO", "AP 16.2", None, APACHE),
    Published("tensorflow/ssdlite_large_coco", "SSDLite, mobilenet_v3_large", "COCO", "AP 22.6", None, APACHE),
    Published("tensorflow/ssdlite_small_coco", "SSDLite, mobilenet_v3_small", "COCO", "AP 15.4", None, APACHE),
    Published("tensorflow/ssdlite_v2_coco", "SSDLite, mobilenet_v2", "COCO", "AP 22", None, APACHE),
)

Source = TypeVar("Source", bound=str | Path | Mapping[str, Any])


def is_name(text: str | Path) -> bool:
    """Whether a text is a name of published weights by its form; a file or folder of that path goes before it."""
    name = Path(text).as_posix()
    return (name in packages.PACKAGES or name.partition("/")[0] in PUBLISHERS) and not Path(text).exists()


def resolve(source: Source) -> Source | Path:
    """The path of the file that a name stands for, fetched if it is not on this machine; what is no name comes back.

    Raises:
        InputError: the name is of no weights, or they cannot be fetched; the message says what to do instead.
    """
    if isinstance(source, Mapping) or not is_name(source):
        return source
    name = Path(source).as_posix()
    publisher = packages if name in packages.PACKAGES else PUBLISHERS[name.partition("/")[0]]
    if (path := publisher.find(name)) is not None:
        return path
    path = publisher.fetch(name)
    print(f"{name}: {terms(name, path)}", file=sys.stderr)
    return path


def find(name: str) -> Path | None:
    """Where a name's file lies on this machine; None if it would have to be fetched.

    Raises:
        InputError: the name is of no weights.
    """
    if name in packages.PACKAGES:
        return packages.find(name)
    if (publisher := PUBLISHERS.get(name.partition("/")[0])) is None:
        known = [published.name for published in PUBLISHED]
        near = difflib.get_close_matches(name, known, n=1)
        raise InputError(
            f"{name}: is no name of weights{f'; did you mean {near[0]}?' if near else ''}; "
            "python -m tools.weights lists them"
        )
    return publisher.find(name)


def terms(name: str, path: Path | None = None) -> str:
    """The publisher's licence, and the terms of the data that the weights were trained on.

    Arguments:
        path: of the file; the header of one that tools.publish wrote says them.
    """
    if path is not None and name.startswith("hub/"):
        return _terms_in_header(path)
    name = name.partition("@")[0]
    if name.startswith("torchvision/"):
        name = name.partition(".")[0]  # all tags of a network were trained on the same data
    found = next((published for published in PUBLISHED if published.name == name), None)
    if found is None:
        return UNKNOWN_TERMS
    return "; ".join([f"licence {found.licence}", *([TERMS[found.data]] if found.data in TERMS else [])])


def _terms_in_header(path: Path) -> str:
    """What a published model's header says of its terms, on one line, as whoever published it wrote it."""
    try:
        with safe_open(path, "numpy") as file:
            description = read_header(file.metadata(), str(path))
    except (SafetensorError, OSError):  # loading it will say so
        return UNKNOWN_TERMS
    stated = [f"licence {description['licence']}"] if "licence" in description else []
    if "data_terms" in description:
        stated.append(str(description["data_terms"]))
    elif "data" in description:
        stated.append(f"trained on {description['data']}")
    line = " ".join("; ".join(stated).split())
    return "".join(character for character in line if character.isprintable()) or UNKNOWN_TERMS

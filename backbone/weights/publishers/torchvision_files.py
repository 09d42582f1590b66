"""torchvision's files: addresses from its own table, the hash in the file's name, torch's cache folder."""

import re
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from backbone.errors import InputError
from backbone.weights.publishers import cache
from backbone.weights.publishers.download import download

FILES = {
    "lraspp_mobilenet_v3_large": "lraspp_mobilenet_v3_large-d234d4ea.pth",
    "mnasnet0_5": "mnasnet0.5_top1_67.823-3ffadce67e.pth",
    "mnasnet0_75": "mnasnet0_75-7090bc5f.pth",
    "mnasnet1_0": "mnasnet1.0_top1_73.512-f206786ef8.pth",
    "mnasnet1_3": "mnasnet1_3-a4c69d6f.pth",
    "mobilenet_v2": "mobilenet_v2-7ebf99e0.pth",
    "mobilenet_v3_large": "mobilenet_v3_large-5c1a4163.pth",
    "mobilenet_v3_small": "mobilenet_v3_small-047dcff4.pth",
    "ssdlite320_mobilenet_v3_large": "ssdlite320_mobilenet_v3_large_coco-a79551df.pth",
}
"""torchvision's default weights of networks that are known here; with these, a file is found without its import."""
HASH = re.compile(r"-([0-9a-f]{8,})\.pth$")


def find(name: str) -> Path | None:
    """The file in torch's cache, None if it is not there; `name` is `torchvision/NETWORK` or `torchvision/NETWORK.TAG`.

    Raises:
        InputError: torchvision has no such weights.
    """
    network = name.removeprefix("torchvision/")
    file_name = FILES.get(network) or PurePosixPath(urlsplit(_address(name)).path).name
    path = cache.torchs() / file_name
    return path if path.is_file() else None


def fetch(name: str) -> Path:
    """Downloads the file into torch's cache.

    Raises:
        InputError: torchvision has no such weights, or they do not arrive whole.
    """
    address = _address(name)
    path = cache.torchs() / PurePosixPath(urlsplit(address).path).name
    found = HASH.search(path.name)
    if found is None:
        raise InputError(
            f"{name}: {path.name} has no hash in its name to check it by; fetch {address} and give its path"
        )
    download(name, address, path, hash_prefix=found[1])
    return path


def _address(name: str) -> str:
    """The address in torchvision's table, of its default weights where no tag is given."""
    # Here, as it takes seconds, and is only needed where a file is not on this machine.
    from torchvision.models import get_model_weights

    network, _, tag = name.removeprefix("torchvision/").partition(".")
    try:
        weights = get_model_weights(network)
    except ValueError as error:
        raise InputError(f"{name}: torchvision has no {network!r}; valid: {', '.join(FILES)}") from error
    tags = weights.__members__
    if tag and tag not in tags:
        raise InputError(f"{name}: torchvision has no {tag!r} of it; valid: {', '.join(tags)}")
    return (tags[tag] if tag else weights["DEFAULT"]).url

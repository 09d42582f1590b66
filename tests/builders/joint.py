"""A small joint network with every part that its users must get right, and its file."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from tests.builders.exported import BODY, COMMON, DESCRIPTIONS, SIZE, images, network_output
from tools.io.model_file import save_model
from tools.joint.network import JointNetwork, create
from tools.joint.weights import describe

HEADS = {
    "segmentation": {"head": "lraspp", "num_classes": 4},
    "detection": {"head": "ssdlite", "num_classes": 3, "image_size": list(SIZE)},
}
TABLES = {
    "segmentation": {key: DESCRIPTIONS["segmentation"][key] for key in ("classes", "colors")},
    "detection": {key: DESCRIPTIONS["detection"][key] for key in ("classes", "category_ids", "score")},
}


def make_joint(randomise: Callable[[nn.Module], nn.Module], **heads: dict) -> JointNetwork:
    """A joint network with random weights, whose decisions differ from place to place.

    Arguments:
        heads: by name, in place of HEADS.
    """
    torch.manual_seed(0)
    network = create(BODY, heads=heads or HEADS)
    randomise(network)
    for name, task in network.tasks.items():
        head = network.get_submodule(name)
        if task == "segmentation":  # by chance one class would win everywhere
            with torch.no_grad():
                head.classify_low.bias -= network_output(network, images(4))[name].mean((0, 2, 3))
        else:  # fresh class logits are nearly equal everywhere
            classes, offsets = head.output_layers()
            for layer in classes + offsets:
                nn.init.normal_(layer.weight, std=0.3)
                nn.init.zeros_(layer.bias)
    return network


def save_joint(path: Path, network: JointNetwork) -> Path:
    """The network's weights file, with the classes of single models' builders by task."""
    tables = {name: TABLES[task] for name, task in network.tasks.items()}
    save_model(path, network, describe(network, tables, mean=COMMON["mean"], std=COMMON["std"]))
    return path

"""Small convolutional networks whose values inside the blocks can be tapped. Knows no task."""

from backbone.architectures.definitions import parse
from backbone.architectures.plan import Feature
from backbone.architectures.rows import Architecture, Squeeze
from backbone.errors import InputError
from backbone.network import Classifier, Network, architecture, classifier, create, names
from backbone.weights.loading import Pretrained, from_weights, load_weights, read_weights

__all__ = [
    "Architecture",
    "Classifier",
    "Feature",
    "InputError",
    "Network",
    "Pretrained",
    "Squeeze",
    "architecture",
    "classifier",
    "create",
    "from_weights",
    "load_weights",
    "names",
    "parse",
    "read_weights",
]

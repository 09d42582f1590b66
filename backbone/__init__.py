"""Small convolutional networks whose values inside the blocks can be tapped. Knows no task."""

from backbone.architectures import Feature
from backbone.errors import InputError
from backbone.network import Classifier, Network, classifier, create, names
from backbone.weights import load_weights, read_weights

__all__ = [
    "Classifier",
    "Feature",
    "InputError",
    "Network",
    "classifier",
    "create",
    "load_weights",
    "names",
    "read_weights",
]

"""Small convolutional networks whose values inside the blocks can be tapped. Knows no task."""

from typing import TYPE_CHECKING

from backbone.lazy import lazy

if TYPE_CHECKING:  # for readers and type checkers; at run time `lazy` imports these when they are first used
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

_MODULES = {
    "Architecture": "architectures.rows",
    "Classifier": "network",
    "Feature": "architectures.plan",
    "InputError": "errors",
    "Network": "network",
    "Pretrained": "weights.loading",
    "Squeeze": "architectures.rows",
    "architecture": "network",
    "classifier": "network",
    "create": "network",
    "from_weights": "weights.loading",
    "load_weights": "weights.loading",
    "names": "network",
    "parse": "architectures.definitions",
    "read_weights": "weights.loading",
}
__getattr__, __dir__ = lazy(__name__, _MODULES)

"""A trained network, rebuilt from its checkpoint alone."""

from typing import NamedTuple

from easydict import EasyDict
from mindspore import nn

from .checkpoint import load_weights, read_checkpoint
from .errors import InputError
from .models import build_model
from .pruning.pruner import prunable_weights


class Trained(NamedTuple):
    """network: in evaluation mode; config: of the run that trained it; image_shape: (channels, height, width);

    classes: names of its classes, or () where they are not known.
    """

    network: nn.Cell
    config: EasyDict
    image_shape: tuple
    classes: tuple = ()

    def weights(self):
        """Prunable weights as arrays by name."""
        return {weight.name: weight.asnumpy() for weight in prunable_weights(self.network)}


def load_trained(path):
    """Network, configuration and input shape of a deployable checkpoint. Raises InputError."""
    tensors, description = read_checkpoint(path)
    if "model" not in description:
        raise InputError(f"{path}: not a deployable checkpoint; give the best.ckpt or last.ckpt of a run")
    network = build_model(**description["model"])
    load_weights(network, tensors, path)
    network.set_train(False)
    classes = tuple(description.get("classes", ()))
    return Trained(network, EasyDict(description["config"]), tuple(description["image_shape"]), classes)

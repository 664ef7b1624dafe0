"""A trained network, rebuilt from its checkpoint alone."""

from typing import Literal, NamedTuple, Optional

from easydict import EasyDict
from mindspore import nn
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..config.keys import evaluation_batch, resolve
from ..models import MODELS, build_model
from ..platform.errors import InputError
from ..pruning.pruner import prunable_weights
from .checkpoint import count_nonzeros, load_weights, read_checkpoint

MOST_IMAGES = 128  # per device in the largest recipes


class Trained(NamedTuple):
    """network: in evaluation mode; config: of the run that trained it; image_shape: (channels, height, width);

    classes: names of its classes, or () where they are not known; nonzeros: of every prunable weight, as counted when
    the checkpoint was written, or None where nobody counted; eval_batch_size: images at a time that fit the device
    which trained it.
    """

    network: nn.Cell
    config: EasyDict
    image_shape: tuple
    classes: tuple = ()
    nonzeros: Optional[dict] = None
    eval_batch_size: int = 1

    def weights(self):
        """Prunable weights as arrays by name."""
        return {weight.name: weight.asnumpy() for weight in prunable_weights(self.network)}

    def dense_parameters(self):
        """All other parameters, which pruning never touches, as arrays by name."""
        prunable = {weight.name for weight in prunable_weights(self.network)}
        return {p.name: p.asnumpy() for p in self.network.get_parameters() if p.name not in prunable}


class _Architecture(BaseModel):
    """What `build_model` takes."""

    model_config = ConfigDict(extra="forbid")

    name: Literal[tuple(MODELS)]
    num_classes: int = Field(ge=1, le=2**20)
    in_channels: int = Field(ge=1, le=2**10)
    width_factor: int = Field(1, ge=1, le=16)


class _Description(BaseModel):
    """What a deployable checkpoint says of itself, as far as it is needed here."""

    model: _Architecture
    config: dict
    image_shape: tuple[int, int, int]
    classes: tuple[str, ...] = ()
    nonzeros: Optional[dict[str, int]] = None
    eval_batch_size: Optional[int] = Field(None, ge=1, le=2**20)


def load_trained(path):
    """Network, configuration and input shape of a deployable checkpoint. Raises InputError."""
    tensors, description = read_checkpoint(path)
    if "model" not in description:
        raise InputError(f"{path}: not a deployable checkpoint; give the best.ckpt or last.ckpt of a run")
    try:
        said = _Description(**description)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        raise InputError(f"{path}: its description is not one of this version: {key}: {problem['msg']}") from None
    config = resolve(said.config, where=f"{path}: configuration")
    network = build_model(**said.model.model_dump())
    load_weights(network, tensors, path)
    network.set_train(False)
    # Older files do not say how many devices shared a batch.
    images = said.eval_batch_size or min(evaluation_batch(config), MOST_IMAGES)
    return Trained(network, config, said.image_shape, said.classes, said.nonzeros, images)


def check_nonzeros(trained, path):
    """Raise InputError unless a network, read from `path`, has the zeros that it had when it was written."""
    if trained.nonzeros is None:
        return
    for name, count in count_nonzeros(trained.weights()).items():
        recorded = trained.nonzeros.get(name)
        if count != recorded:
            raise InputError(
                f"{path}: {name} has {count} non-zero weights, not the {recorded} counted at the end of training; "
                "the file was changed since: export the run's own best.ckpt or last.ckpt"
            )

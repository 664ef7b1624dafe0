"""A trained network, rebuilt from its checkpoint alone."""

from typing import NamedTuple, Optional

from easydict import EasyDict
from mindspore import nn
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveFloat, ValidationError

from ..config.keys import ModelName, evaluation_batch, resolve
from ..data import PUBLISHED, DataInfo, published_info
from ..models import build_model
from ..platform.errors import InputError
from ..pruning.pruner import prunable_weights
from .checkpoint import count_nonzeros, load_weights, read_checkpoint

MOST_IMAGES = 128  # per device in the largest recipes


class Trained(NamedTuple):
    """network: in evaluation mode; config: of the run that trained it; data: what it has to know of its images.

    nonzeros: of every prunable weight, as counted when
    the checkpoint was written, or None where nobody counted; eval_batch_size: images at a time that fit the device
    which trained it.
    """

    network: nn.Cell
    config: EasyDict
    data: DataInfo
    nonzeros: Optional[dict] = None
    eval_batch_size: int = 1

    @property
    def image_shape(self):
        """(channels, height, width) of its images."""
        return self.data.image_shape

    @property
    def classes(self):
        """Names of its classes, or () where they are not known."""
        return self.data.classes

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

    name: ModelName
    num_classes: int = Field(ge=1, le=2**20)
    in_channels: int = Field(ge=1, le=2**10)
    width_factor: int = Field(1, ge=1, le=16)
    arguments: dict = {}


class _Data(BaseModel):
    """What a DataInfo has beside shape and classes."""

    mean: tuple[FiniteFloat, ...]
    std: tuple[PositiveFloat, ...]
    crop: float = Field(gt=0, le=1)
    skipped: tuple[str, ...] = ()


class _Description(BaseModel):
    """What a deployable checkpoint says of itself, as far as it is needed here."""

    model: _Architecture
    config: dict
    image_shape: tuple[int, int, int]
    classes: tuple[str, ...] = ()
    data: Optional[_Data] = None
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
    return Trained(network, config, _data_info(said, config, path), said.nonzeros, images)


def _data_info(said, config, path):
    """The DataInfo of a checkpoint; older files, all of published data sets, do not hold mean and deviation."""
    if said.data is None and config.dataset not in PUBLISHED:
        raise InputError(f"{path}: its description does not say mean and deviation of its images")
    known = published_info(config.dataset)._asdict() if said.data is None else said.data.model_dump()
    own = {"num_classes": said.model.num_classes, "image_shape": said.image_shape, "classes": said.classes}
    info = DataInfo(**{**known, **own})
    if said.data and not len(info.mean) == len(info.std) == said.model.in_channels:
        raise InputError(f"{path}: mean and deviation are not of {said.model.in_channels} channels")
    return info


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

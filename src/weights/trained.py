"""A trained network, rebuilt from its checkpoint alone."""

from typing import Annotated, NamedTuple, Optional

from easydict import EasyDict
from mindspore import nn
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..config.keys import ModelName, evaluation_batch, resolve
from ..data import PUBLISHED, published_info
from ..data.batches import Source
from ..data.info import DataInfo
from ..models import build_model
from ..platform.errors import InputError
from ..platform.schema import first_problem
from ..pruning.allocation import total_budget
from ..pruning.layers import pattern_of
from ..pruning.pruner import prunable_weights
from .checkpoint import count_nonzeros, load_weights, read_checkpoint

MOST_IMAGES = 128  # per device in the largest recipes


class Trained(NamedTuple):
    """network: in evaluation mode; config: of the run that trained it; data: what it has to know of its images.

    nonzeros: of every prunable weight, as counted when the checkpoint was written, or None where nobody counted;
    eval_batch_size: images at a time that fit the device which trained it.
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

    def source(self, data_path=None):
        """The Source of its data: in `data_path`, or where they were in training."""
        config = self.config
        path = data_path or config.data_path
        return Source(config.dataset, path, config.seed, config.val_fraction, self.classes, self.data)

    def weights(self):
        """Prunable weights as arrays by name."""
        return {weight.name: weight.asnumpy() for weight in prunable_weights(self.network)}

    def patterned(self):
        """Which of the prunable layers have the N:M pattern of its run, or None without one."""
        return pattern_of(self.config, self.network, prunable_weights(self.network))

    def target(self):
        """How many prunable weights its run was to leave."""
        sizes, patterned = [weight.size for weight in prunable_weights(self.network)], self.patterned()
        return patterned.target(sizes) if patterned else total_budget(sizes, 1 - self.config.sparsity)

    def dense_parameters(self):
        """All other parameters, which pruning never touches, as arrays by name."""
        prunable = {weight.name for weight in prunable_weights(self.network)}
        return {p.name: p.asnumpy() for p in self.network.get_parameters() if p.name not in prunable}


class _Architecture(BaseModel):
    """What `build_model` takes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: ModelName
    num_classes: int = Field(ge=1, le=2**20)
    in_channels: int = Field(ge=1, le=2**10)
    width_factor: int = Field(1, ge=1, le=16)
    arguments: dict = {}


_Side = Annotated[int, Field(ge=1, le=2**12)]  # pixels
_Level = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
_Deviation = Annotated[float, Field(strict=True, gt=1e-5, le=1, allow_inf_nan=False)]


class _Data(BaseModel):
    """What a DataInfo has beside shape and classes."""

    model_config = ConfigDict(extra="forbid")

    mean: tuple[_Level, ...]
    std: tuple[_Deviation, ...]
    crop: float = Field(strict=True, ge=0.1, le=1)
    skipped: tuple[str, ...] = ()


class _Description(BaseModel):
    """What a deployable checkpoint says of itself, as far as it is needed here."""

    model: _Architecture
    config: dict
    image_shape: tuple[int, _Side, _Side]
    classes: tuple[str, ...] = ()
    data: Optional[_Data] = None
    nonzeros: Optional[dict[str, int]] = None
    eval_batch_size: Optional[int] = Field(None, ge=1, le=2**20)

    @model_validator(mode="after")
    def _fits(self):
        if self.image_shape[0] != self.model.in_channels:
            raise ValueError(f"images of {self.image_shape[0]} colours for a network of {self.model.in_channels}")
        if self.data and not len(self.data.mean) == len(self.data.std) == self.model.in_channels:
            raise ValueError(f"mean and deviation are not of {self.model.in_channels} channels")
        return self


def load_trained(path):
    """Network, configuration and input shape of a deployable checkpoint. Raises InputError."""
    tensors, description = read_checkpoint(path)
    if "model" not in description:
        raise InputError(f"{path}: not a deployable checkpoint; give the best.ckpt or last.ckpt of a run")
    try:
        said = _Description.model_validate(description)
    except ValidationError as error:
        raise InputError(f"{path}: its description is not one of this version: {first_problem(error)}") from None
    config = resolve(said.config, where=f"{path}: configuration")
    _check_declared(path, said.model, tensors)
    network = build_model(**said.model.model_dump())
    load_weights(network, tensors, path)
    network.set_train(False)
    # Older files do not say how many devices shared a batch.
    images = said.eval_batch_size or min(evaluation_batch(config), MOST_IMAGES)
    trained = Trained(network, config, _data_info(said, config, path), said.nonzeros, images)
    try:
        trained.patterned()
    except ValueError as error:
        raise InputError(f"{path}: configuration: {error}") from None
    return trained


def _data_info(said, config, path):
    """The DataInfo of a checkpoint; older files, all of published data sets, do not hold mean and deviation."""
    if said.data is None and config.dataset not in PUBLISHED:
        raise InputError(f"{path}: its description does not say mean and deviation of its images")
    known = published_info(config.dataset)._asdict() if said.data is None else said.data.model_dump()
    own = {"num_classes": said.model.num_classes, "image_shape": said.image_shape, "classes": said.classes}
    return DataInfo(**{**known, **own})


def _check_declared(path, model, tensors):
    """Raise InputError if a network is too large by far for its file, before memory is taken for it."""
    values = sum(tensor.size for tensor in tensors.values())
    for key, least in (
        ("num_classes", 64 * model.num_classes),
        ("width_factor", 200_000 * (model.width_factor**2 - 1)),
    ):
        if values < least:
            raise InputError(f"{path}: does not fit the network: too small for {key} {getattr(model, key)}")


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


def check_pattern(trained, path):
    """Raise InputError if a network, read from `path`, has a group with more non-zeros than its N:M pattern allows."""
    patterned, weights = trained.patterned(), trained.weights()
    broken = patterned.broken(list(weights.values())) if patterned else {}
    for index, groups in broken.items():
        name, weight = list(weights.items())[index]
        raise InputError(
            f"{path}: {name} breaks the pattern {patterned.pattern} in {groups} of its "
            f"{weight.size // patterned.pattern.of} groups: let the run reach its end, and take what it leaves then"
        )

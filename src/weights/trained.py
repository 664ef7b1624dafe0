"""A trained network, rebuilt from its checkpoint alone."""

from typing import Annotated, NamedTuple, Optional

import numpy as np
from easydict import EasyDict
from mindspore import Tensor, nn
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..config.keys import evaluation_batch, known_model, resolve
from ..data import PUBLISHED, published_info
from ..data.batches import Source
from ..data.info import DataInfo
from ..models import build_model
from ..models.mindcv_networks import least_size
from ..platform.errors import InputError
from ..platform.schema import first_problem
from ..pruning.allocation import total_budget
from ..pruning.layers import pattern_of
from ..pruning.pruner import prunable_weights
from ..pruning.settings import PruningSettings
from .checkpoint import count_nonzeros, load_weights, read_checkpoint
from .own import OWN, build_own

MOST_IMAGES = 128  # per device in the largest recipes


class Trained(NamedTuple):
    """network: in evaluation mode; config: of the run that trained it; data: what it has to know of its images.

    nonzeros: of every pruned weight, as counted when the checkpoint was written, or None where nobody counted;
    eval_batch_size: images at a time that fit the device which trained it; pruned: names of the pruned weights where
    these were chosen, else all prunable ones are.
    """

    network: nn.Cell
    config: EasyDict
    data: DataInfo
    nonzeros: Optional[dict] = None
    eval_batch_size: int = 1
    pruned: tuple = ()

    @property
    def image_shape(self):
        """(channels, height, width) of its images."""
        return self.data.image_shape

    @property
    def classes(self):
        """Names of its classes, or () where they are not known."""
        return self.data.classes

    def source(self, data_path=None):
        """The Source of its data: in `data_path`, or where they were in training.

        Raises InputError for a network of one's own that does not tell classes apart: no data here are of use to it.
        """
        config = self.config
        if config.model == OWN:
            outputs = self.network(Tensor(np.zeros((1, *self.image_shape), np.float32))).shape[1:]
            if outputs != (self.data.num_classes,):
                raise InputError(
                    f"ckpt: the network gives {'x'.join(map(str, outputs))} numbers for an image, not one for each of "
                    f"{self.data.num_classes} classes; score it by a program of your own"
                )
        path = data_path or config.data_path
        return Source(config.dataset, path, config.seed, config.val_fraction, self.classes, self.data)

    def weights(self):
        """Pruned weights as arrays by name."""
        parameters = self.network.parameters_dict()
        return {name: parameters[name].asnumpy() for name in self._pruned_names()}

    def patterned(self):
        """Which of the pruned layers have the N:M pattern of its run, or None without one."""
        parameters = self.network.parameters_dict()
        return pattern_of(self.config, self.network, [parameters[name] for name in self._pruned_names()])

    def target(self):
        """How many pruned weights its run was to leave."""
        sizes, patterned = [weight.size for weight in self.weights().values()], self.patterned()
        return patterned.target(sizes) if patterned else total_budget(sizes, 1 - self.config.sparsity)

    def dense_parameters(self):
        """All other parameters, which pruning never touches, as arrays by name."""
        pruned = set(self._pruned_names())
        return {p.name: p.asnumpy() for p in self.network.get_parameters() if p.name not in pruned}

    def settings(self):
        """What is known of how it was trained: of a network of one's own, the settings of its pruning alone."""
        keys = PruningSettings.model_fields if self.config.model == OWN else self.config
        return {key: self.config[key] for key in keys}

    def _pruned_names(self):
        return self.pruned or [weight.name for weight in prunable_weights(self.network)]


class _Architecture(BaseModel):
    """What `build_model` takes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, AfterValidator(lambda name: name if name == OWN else known_model(name))]
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
    pruned: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _fits(self):
        if self.image_shape[0] != self.model.in_channels:
            raise ValueError(f"images of {self.image_shape[0]} colours for a network of {self.model.in_channels}")
        if self.data and not len(self.data.mean) == len(self.data.std) == self.model.in_channels:
            raise ValueError(f"mean and deviation are not of {self.model.in_channels} channels")
        return self


def load_trained(path, network=None):
    """Network, configuration and input shape of a deployable checkpoint. Raises InputError.

    network: what builds it, `FILE.py:NAME` (see `build_own`), for a checkpoint of `RPG.save_deployable`, and for that
    alone.
    """
    tensors, description = read_checkpoint(path)
    if "model" not in description:
        raise InputError(f"{path}: not a deployable checkpoint; give the best.ckpt or last.ckpt of a run")
    try:
        said = _Description.model_validate(description)
    except ValidationError as error:
        raise InputError(f"{path}: its description is not one of this version: {first_problem(error)}") from None
    config = resolve(said.config, where=f"{path}: configuration")
    built = _build(path, said, tensors, network)
    load_weights(built, tensors, path)
    built.set_train(False)
    unknown = sorted(set(said.pruned) - set(built.parameters_dict()))
    if unknown:
        raise InputError(f"{path}: its description is damaged: it has no weight {unknown[0]}")
    if said.model.name == OWN:
        config.model = OWN
    # Older files do not say how many devices shared a batch.
    images = said.eval_batch_size or min(evaluation_batch(config), MOST_IMAGES)
    trained = Trained(built, config, _data_info(said, config, path), said.nonzeros, images, said.pruned)
    try:
        trained.patterned()
    except ValueError as error:
        raise InputError(f"{path}: configuration: {error}") from None
    return trained


def _build(path, said, tensors, reference):
    """The network of a description, its parameters not yet those of the file. Raises InputError."""
    if said.model.name != OWN:
        if reference:
            raise InputError(f"network: {path} is of {said.model.name}, which is known here; leave it out")
        _check_declared(path, said.model, tensors)
        return build_model(**said.model.model_dump())
    if not reference:
        raise InputError(f"{path}: a network of one's own; say what builds it: --network FILE.py:FUNCTION")
    return build_own(reference)


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
        ("arguments", least_size(model.name, model.arguments)),
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

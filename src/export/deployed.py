"""The network as it is deployed: what it takes, what it gives, and how it says so in the file."""

import json
import math
from typing import Annotated, Literal, NamedTuple, Optional

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from pydantic import BaseModel, Field, StrictBool, model_validator

from ..data.batches import LARGEST_BATCH, check_memory
from ..platform.errors import InputError
from ..platform.files import MIB
from ..pruning.pruner import prunable_layers
from ..weights.own import OWN
from .fold import fold_batch_norms
from .report import TOLERANCE, check_outputs, rounding_tolerance

_LARGEST_METADATA = 4 * MIB
_Side = Annotated[int, Field(ge=1, le=2**12)]  # pixels
_Level = Annotated[float, Field(ge=0, le=255, allow_inf_nan=False)]  # grey value
_Deviation = Annotated[float, Field(gt=1e-3, le=255, allow_inf_nan=False)]


class _Interface(BaseModel):
    """What the metadata of a file may say; see Interface."""

    image_shape: tuple[Literal[1, 3], _Side, _Side]
    batch_size: Optional[Annotated[int, Field(ge=1, le=2**20)]]
    mean: tuple[_Level, ...]
    std: tuple[_Deviation, ...]
    normalized: StrictBool
    softmax: StrictBool
    crop: float = Field(ge=0.1, le=1)
    classes: tuple[str, ...] = Field(min_length=1, max_length=2**20)

    @model_validator(mode="after")
    def _fits(self):
        if not len(self.mean) == len(self.std) == self.image_shape[0]:
            raise ValueError("mean and std are not of as many colours as the images")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("two classes have one name")
        if math.prod((self.batch_size or 1, *self.image_shape)) > LARGEST_BATCH:
            raise ValueError("a batch is too large")
        return self


class Interface(NamedTuple):
    """What a program needs to feed the network and to read its answer; it travels inside MINDIR and ONNX files.

    image_shape: (channels, height, width); batch_size: images per call, None for any number; mean, std: per channel,
    of grey values 0..255; normalized: the network takes grey values and normalises them itself; softmax: it returns
    probabilities instead of logits; crop: share of the resized image's shorter side that the network sees.
    """

    image_shape: tuple
    batch_size: Optional[int]
    mean: tuple
    std: tuple
    normalized: bool
    softmax: bool
    crop: float
    classes: tuple

    def to_metadata(self):
        """Text by key, for the metadata of a file: every value in JSON."""
        return {f"rpg.{key}": json.dumps(value) for key, value in self._asdict().items()}

    @classmethod
    def from_metadata(cls, metadata):
        """The inverse. Raises KeyError or ValueError on metadata that `to_metadata` did not make."""
        if sum(len(metadata[f"rpg.{key}"]) for key in cls._fields) > _LARGEST_METADATA:
            raise ValueError("the metadata is too long")
        try:
            values = {key: json.loads(metadata[f"rpg.{key}"]) for key in cls._fields}
        except RecursionError:
            raise ValueError("the metadata is nested too deeply") from None
        return cls(**_Interface.model_validate(values).model_dump())

    def random_images(self, count=2, seed=0):
        """Images such as the network takes, float32 (n, channels, height, width); n is `count` if the batch is free."""
        random = np.random.default_rng(seed)
        shape = (self.batch_size or count, *self.image_shape)
        images = random.uniform(0, 255, shape) if self.normalized else random.standard_normal(shape)
        return images.astype(np.float32)

    def signature(self):
        """The input that ms.export wants: a tensor, its first dimension open for a free batch."""
        if self.batch_size:
            return Tensor(self.random_images())
        return Tensor(shape=[None, *self.image_shape], dtype=ms.float32)


def describe_interface(trained, batch_size=1, normalize=False, softmax=False):
    """The Interface of a trained network; mean and std are those of its data, nameless classes are numbered.

    Raises InputError for a batch that no memory has room for.
    """
    check_memory(batch_size or 1, trained.image_shape)
    data = trained.data
    own = trained.config.model == OWN  # whose layer that is defined last need not be the one that comes last
    count = data.num_classes if own else prunable_layers(trained.network)[-1][1].weight.shape[0]
    return Interface(
        image_shape=tuple(trained.image_shape),
        batch_size=batch_size,
        mean=tuple(255 * value for value in data.mean),
        std=tuple(255 * value for value in data.std),
        normalized=normalize,
        softmax=softmax,
        crop=data.crop,
        classes=trained.classes if len(trained.classes) == count else tuple(map(str, range(count))),
    )


class DeployedNetwork(nn.Cell):
    """A network with normalisation before it and softmax behind it, as its Interface says.

    The parameters keep the names they have in the network.
    """

    def __init__(self, network, interface):
        super().__init__(auto_prefix=False)
        self.network = network
        self.normalized = interface.normalized
        self.softmax = interface.softmax
        self.mean = Tensor(np.float32(interface.mean).reshape(1, -1, 1, 1))
        self.scale = Tensor((1 / np.float32(interface.std)).reshape(1, -1, 1, 1))
        self.set_train(False)

    def construct(self, images):
        if self.normalized:
            images = (images - self.mean) * self.scale
        outputs = self.network(images)
        if self.softmax:
            outputs = ops.softmax(outputs, -1)
        return outputs


class Deployment(NamedTuple):
    """A network ready for export, with what its file will be compared with.

    network: a DeployedNetwork that has not been exported; weights, dense: prunable weights, and all other parameters,
    by name; images, outputs: an input and what the trained network makes of it, before any folding; tolerance: how far
    outputs on the same kernels may be from that; rounding: how far those of another runtime may.
    """

    network: DeployedNetwork
    interface: Interface
    weights: dict
    dense: dict
    images: np.ndarray
    outputs: np.ndarray
    tolerance: float
    rounding: float


def finite_outputs(network, images):
    """What a network makes of images (n, channels, height, width). Raises InputError if it is not finite."""
    outputs = network(Tensor(images)).asnumpy()
    if not np.isfinite(outputs).all():
        raise InputError("ckpt: the network's outputs are not finite; use another copy, or train it again")
    return outputs


def prepare(trained, interface, fold_bn=False):
    """The Deployment of a trained network, which it takes over: with `fold_bn` the network itself is changed.

    Raises InputError for a network of no use, RuntimeError if folding changes the outputs or loses zeros.
    """
    network = DeployedNetwork(trained.network, interface)
    images = interface.random_images()
    outputs = finite_outputs(network, images)
    rounding = rounding_tolerance(outputs, finite_outputs(network, _nudged(images)))
    if fold_bn:
        before = trained.weights()
        fold_batch_norms(trained.network, Tensor(interface._replace(normalized=False).random_images()))
        check_outputs("fold_bn", outputs, network(Tensor(images)).asnumpy(), rounding)
        for name, weight in trained.weights().items():
            if weight[before[name] == 0].any():
                raise RuntimeError(f"fold_bn: {name} lost zeros")
    own = (trained.weights(), trained.dense_parameters())
    return Deployment(network, interface, *own, images, outputs, rounding if fold_bn else TOLERANCE, rounding)


def _nudged(images):
    """The images with every value moved by one unit in its last place, up or down by chance."""
    up = np.random.default_rng(1).random(images.shape) < 0.5
    return np.nextafter(images, np.where(up, np.float32(np.inf), np.float32(-np.inf)))

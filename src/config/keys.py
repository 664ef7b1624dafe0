"""Every key of a configuration with its type, range and meaning, and what follows from them together."""

import difflib
import re
from typing import Annotated, Literal

from easydict import EasyDict
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, StringConstraints, ValidationError
from pydantic_core import PydanticCustomError

from ..data import DATASETS
from ..models import MODELS
from ..models.mindcv_networks import PREFIX, parse_arguments
from ..platform.errors import InputError
from ..platform.schema import shown
from ..pruning.allocation import SAFE
from ..pruning.settings import PruningSettings, apply_method, complete

OF_A_FOLDER = ("image_size", "crop", "grey", "statistics", "skip_unreadable")  # what published data sets have fixed
OF_MOMENTUM = ("momentum", "nesterov")  # which recipes of another optimiser may inherit from their base


def _in_utf8(path):
    if isinstance(path, str) and path != path.encode("utf-8", "replace").decode():
        raise PydanticCustomError("path", "Input should be a name in UTF-8, as files of a run are; give a link to it")
    return path


PathName = Annotated[
    str, BeforeValidator(_in_utf8), StringConstraints(pattern=r"^[^\x00]*$", max_length=4000)
]  # what a system call takes


def known_model(name):
    """The name of a network, checked; for pydantic."""
    if name not in MODELS and not re.fullmatch(f"{PREFIX}[a-z0-9_]+", name):
        raise PydanticCustomError("model", f"Input should be {', '.join(map(repr, MODELS))} or '{PREFIX}NAME'")
    return name


ModelName = Annotated[str, AfterValidator(known_model)]


class Training(BaseModel):
    """What is trained, and how, pruning aside."""

    model: ModelName = Field("resnet20", description=f"network: {', '.join(MODELS)} or {PREFIX}NAME")
    model_args: str = Field("", description="keyword arguments of mindcv's network, NAME=VALUE,NAME=VALUE")
    width_factor: int = Field(1, ge=1, le=16, description="widens the CIFAR networks")
    dataset: Literal[tuple(DATASETS)] = Field("digits", description="data set")
    image_size: int = Field(
        0, ge=0, le=4096, description="dataset folder: height and width that pictures are scaled to; 0: 224"
    )
    crop: float = Field(
        224 / 256, ge=0.1, le=1, description="dataset folder: share of a test picture's shorter side that is seen"
    )
    grey: bool = Field(False, description="dataset folder: one channel instead of red, green and blue")
    statistics: Literal["data", "imagenet"] = Field(
        "data", description="dataset folder: whose mean and deviation to normalise by"
    )
    skip_unreadable: bool = Field(False, description="dataset folder: leave out the files that cannot be read")
    batch_size: int = Field(64, ge=1, le=2**20, description="training images per step")

    pretrained: PathName = Field(
        "", description="weights to start from: a checkpoint of MindSpore or PyTorch, or safetensors"
    )

    epoch_size: int = Field(40, ge=1, le=10**6, description="epochs to train")
    pruning_epochs: int = Field(
        0, ge=0, description="epochs that prune_window and update_end are shares of, the first ones; 0: all"
    )
    lr: float = Field(0.1, gt=0, description="peak learning rate; falls by a cosine, per step, once it is reached")
    warmup_epochs: float = Field(2, ge=0, description="epochs of linear warm-up")
    optimizer: Literal["momentum", "sgd", "adamw", "lion"] = Field(
        "momentum", description="optimiser; sgd is without momentum, adamw and lion want a far lower lr"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of the optimiser of that name")
    nesterov: bool = Field(False, description="Nesterov momentum")
    weight_decay: float = Field(5e-4, ge=0, description="on weights; never on BatchNorm and biases")
    grad_clip: float = Field(0.0, ge=0, description="most that the norm of all gradients together may be; 0: any")
    hyperbolic_step: float = Field(
        0.0, ge=0, le=10**6, description="alpha of HAM's multiplicative step behind each of the optimiser; 0: none"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread over all classes")

    teacher: PathName = Field("", description="checkpoint of a trained network to learn from beside the labels")
    teacher_weight: float = Field(0.5, gt=0, le=1, description="share of the teacher in the loss")
    temperature: float = Field(4.0, gt=0, le=100, description="softens what teacher and network say of an image")

    val_fraction: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the training images, held out to choose the best by; 0: the test set does",
    )

    mixup: float = Field(0.0, ge=0, le=100, description="alpha of mixup; 0: none")
    cutmix: float = Field(0.0, ge=0, le=100, description="alpha of cutmix, which with mixup takes turns; 0: none")
    rand_augment: int = Field(0, ge=0, le=30, description="magnitude of RandAugment, two operations an image; 0: none")
    ema_decay: float = Field(0.0, ge=0, lt=1, description="moving average of the weights, the one deployed; 0: none")
    amp_level: Literal["O0", "O2", "O3", "auto"] = Field("O0", description="mixed precision, levels of mindspore.amp")
    sync_batch_norm: bool = Field(True, description="BatchNorm over the images of all workers, not of each its own")
    accumulation_steps: int = Field(
        1, ge=1, le=2**20, description="parts that a batch is computed in, one after the other"
    )


class Recipe(PruningSettings, Training):  # fields of the last base come first
    """The keys that make a run's result: those of training, then those of pruning."""

    exclude: str = Field(
        "", description="layers that stay dense and do not count in the sparsity: patterns, blocks.0.*,head; none"
    )
    rank_layers: str = Field(
        "", description="pruned layers that the rank term is taken of, as in exclude; by default all convolutions"
    )


class Config(Recipe):
    """The recipe, and where and how this run works."""

    seed: int = Field(0, ge=0, lt=2**31, description="seed of weights, data order and random growth")
    data_path: PathName = Field("", description="folder of the data set; the embedded digits need none")
    output_path: PathName = Field("output", min_length=1, description="folder for checkpoints, metrics and result")
    device_target: Literal["auto", "CPU", "GPU", "Ascend"] = Field("auto", description="device")
    num_workers: int = Field(2, ge=1, le=2**20, description="threads of the data pipeline, at most one per core")
    eval_batch_size: int = Field(
        0, ge=0, le=2**20, description="images that a device evaluates at a time; 0: as many as it trains at a time"
    )
    resume_ckpt: PathName = Field("", description="resume.ckpt to continue from, or auto for the one in output_path")
    force: bool = Field(False, description="resume with another recipe, where the difference is harmless")
    save_steps: int = Field(0, ge=0, le=10**9, description="write resume.ckpt every that many steps too; 0: not")
    save_minutes: float = Field(10, ge=0, description="write resume.ckpt every that many minutes too; 0: not")
    tensorboard: bool = Field(
        False, description="write what metrics.jsonl has for TensorBoard, too, to the folder tensorboard in output_path"
    )
    overwrite: bool = Field(False, description="replace the run that output_path holds")
    dry_run: bool = Field(False, description="print the resolved recipe and stop")


def evaluation_batch(config, workers=1):
    """Images that each worker evaluates at a time: `eval_batch_size`, or as many as it trains at a time."""
    return config.eval_batch_size or config.batch_size // (workers * config.accumulation_steps)


def resolve(values, given=None, where="configuration"):
    """Validate `values` (from `where`) overridden by `given` (from the command line), and fill in what follows.

    Settings that the method fixes win over `values`; contradicting them on the command line is an error.
    """
    given = given or {}
    _check_names({**values, **given}, lambda key: "command line" if key in given else where)
    try:
        config = Config(**{**values, **given})
    except ValidationError as error:
        raise InputError(_first_problem(error, given, where)) from None
    try:
        apply_method(config, given)
    except ValueError as error:
        raise InputError(f"command line: {error}") from None
    try:
        complete(config)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None
    if config.min_layer_density == SAFE and config.dataset != "folder" and not config.model.startswith(PREFIX):
        config.min_layer_density = 0.0  # published data and our networks: as in the paper and its released code
    try:
        parse_arguments(config.model_args)
    except ValueError as error:
        raise InputError(f"{'command line' if 'model_args' in given else where}: model_args: {error}") from None
    _check_together(config, given, where)
    return EasyDict(config.model_dump())


def _check_together(config, given, where):
    """Raise InputError where keys of training contradict each other."""
    for key in OF_A_FOLDER:
        if config.dataset != "folder" and getattr(config, key) != Config.model_fields[key].default:
            raise InputError(
                f"{'command line' if key in given else where}: {key}: only for dataset folder; leave it out"
            )
    for key in OF_MOMENTUM:
        if config.optimizer != "momentum" and key in given:
            raise InputError(f"command line: {key}: only for optimizer momentum; leave it out")
    if config.pruning_epochs > config.epoch_size:
        source = "command line" if {"pruning_epochs", "epoch_size"} & given.keys() else where
        raise InputError(f"{source}: pruning_epochs {config.pruning_epochs} is above epoch_size {config.epoch_size}")
    if config.batch_size % config.accumulation_steps:
        raise InputError(
            f"{where}: batch_size {config.batch_size} does not divide into accumulation_steps "
            f"{config.accumulation_steps} equal parts"
        )


def _check_names(values, where):
    for key in values:
        if key not in Config.model_fields:
            raise InputError(f"{where(key)}: unknown key {shown(key)}{nearest(key)}")


def nearest(name, prefix=""):
    """The end of a message about an unknown key: the one that was perhaps meant, with a prefix."""
    # Comparing takes time that grows with the square of a name's length.
    close = difflib.get_close_matches(str(name)[:100], [*Config.model_fields, "config_path"], n=1)
    return f"; did you mean {prefix}{close[0]}?" if close else "; see config/ for the keys there are"


def _first_problem(error, given, where):
    problem = error.errors()[0]
    key = str(problem["loc"][0])
    source = "command line" if key in given else where
    return f"{source}: {key}: {problem['msg']}, not {shown(problem['input'])}"

"""Every key of the example's configurations: type, range, meaning; and how a command line overrides them."""

import argparse
import difflib
import sys
from pathlib import Path
from typing import Literal, get_args, get_origin

from pydantic import Field, ValidationError

from src.config.files import read_yaml
from src.platform.command_line import Parser
from src.platform.errors import InputError
from src.platform.schema import shown
from src.pruning.settings import PruningSettings, apply_method, complete

FOLDER = Path(__file__).resolve().parent
DEFAULT_CONFIG = FOLDER / "config" / "shapes_nano.yaml"
STRIDE = 32  # of the coarsest grid of YOLOv8


class Settings(PruningSettings):
    """A training run: network, data, recipe, pruning, files."""

    task: Literal["detect", "segment"] = Field("detect", description="boxes alone, or boxes and masks")
    size: Literal["n", "s", "m", "l", "x"] = Field("n", description="YOLOv8 from nano to extra large")
    pretrained: str = Field("", description="checkpoint to start from, of this example or of mindyolo")

    data_path: str = Field("output/shapes", description="folder that the next four are in")
    train_images: str = Field("train", description="folder of the pictures to train on")
    train_annotations: str = Field("train.json", description="their objects, as in COCO")
    val_images: str = Field("val", description="folder of the pictures to score on")
    val_annotations: str = Field("val.json", description="their objects")
    image_size: int = Field(640, ge=STRIDE, le=2048, multiple_of=STRIDE, description="height and width of the input")
    max_objects: int = Field(160, ge=1, le=2000, description="objects of a training picture, the largest ones")
    loaders: int = Field(2, ge=1, le=256, description="threads that prepare pictures")

    mosaic: float = Field(1.0, ge=0, le=1, description="share of training pictures that are put together from four")
    close_mosaic: int = Field(10, ge=0, description="last epochs, which go without")
    zoom: float = Field(0.5, ge=0, lt=1, description="pictures are scaled by 1 - zoom to 1 + zoom")
    shift: float = Field(0.1, ge=0, le=0.5, description="and moved by up to this share of their side")
    flip: float = Field(0.5, ge=0, le=1, description="share of pictures that are flipped left to right")
    hue: float = Field(0.015, ge=0, le=1, description="largest relative change of hue")
    saturation: float = Field(0.7, ge=0, le=1, description="of saturation")
    brightness: float = Field(0.4, ge=0, le=1, description="of brightness")

    epochs: int = Field(500, ge=1, le=10**6, description="epochs to train")
    batch_size: int = Field(128, ge=1, le=2**16, description="pictures per step, of all workers together")
    lr: float = Field(0.01, gt=0, description="learning rate after the warm-up; falls by a straight line")
    final_lr: float = Field(0.01, ge=0, le=1, description="share of it that is left at the end")
    warmup_epochs: float = Field(3, ge=0, description="epochs in which it rises from 0")
    warmup_bias_lr: float = Field(0.1, ge=0, description="that of biases falls from here meanwhile")
    optimizer: Literal["momentum", "adamw"] = Field("momentum", description="adamw learns sooner, at a lower lr")
    momentum: float = Field(0.937, ge=0, lt=1, description="Nesterov momentum, or the first beta of adamw")
    weight_decay: float = Field(5e-4, ge=0, description="on convolutions; never on BatchNorm and biases")
    grad_clip: float = Field(10.0, ge=0, description="most that the norm of all gradients together may be; 0: any")
    ema_decay: float = Field(0.9999, ge=0, lt=1, description="of the averaged weights, which are scored and kept")
    sync_batch_norm: bool = Field(False, description="BatchNorm over the pictures of all workers")
    box_gain: float = Field(7.5, ge=0, description="weight of the boxes' loss, and of the masks'")
    class_gain: float = Field(0.5, ge=0, description="weight of the classes' loss")
    dfl_gain: float = Field(1.5, ge=0, description="weight of the distribution focal loss")

    seed: int = Field(0, ge=0, lt=2**31, description="of weights, order, augmentation and random growth")
    output_path: str = Field("output/detection", min_length=1, description="folder for the run's files")
    save_minutes: float = Field(10, ge=0, description="write resume.ckpt every that many minutes too; 0: not")
    resume: bool = Field(False, description="continue the run in output_path")
    overwrite: bool = Field(False, description="replace the run in output_path")
    device_target: Literal["auto", "CPU", "GPU", "Ascend"] = Field("auto", description="device")

    def pruning(self):
        """Keyword arguments of `RPG`."""
        values = {key: getattr(self, key) for key in PruningSettings.model_fields}
        if self.method == "dense":  # gradual pruning down to a density of one is dense training, step by step
            values.update(method="gmp")
        return values

    def training(self):
        """What has to be the same for a run to be continued; the rest is where and how it works."""
        free = ("output_path", "save_minutes", "resume", "overwrite", "device_target", "loaders")
        moved = ("data_path", "train_images", "val_images", "pretrained")
        return {key: value for key, value in self.model_dump().items() if key not in free + moved}


def load_settings(arguments=None):
    """The Settings of a command line: its options, then the file of `--config_path`, then that file's `base`.

    Raises InputError that names the key and where it was set.
    """
    given = _parse(sys.argv[1:] if arguments is None else arguments)
    path = given.pop("config_path", DEFAULT_CONFIG)
    values = read_yaml(path)
    for key in values:
        if key not in Settings.model_fields:
            close = difflib.get_close_matches(str(key)[:100], Settings.model_fields, n=1)
            hint = f"did you mean {close[0]}?" if close else "see train.py --help"
            raise InputError(f"config_path: {path}: unknown key {shown(key)}; {hint}")
    try:
        settings = Settings(**{**values, **given})
    except ValidationError as error:
        problem = error.errors()[0]
        key = str(problem["loc"][0])
        where = "command line" if key in given else f"config_path: {path}"
        raise InputError(f"{where}: {key}: {problem['msg']}, not {shown(problem['input'])}") from None
    try:
        apply_method(settings, given)
        complete(settings)
    except ValueError as error:
        raise InputError(f"command line: {error}") from None
    if settings.resume and settings.overwrite:
        raise InputError("command line: resume and overwrite contradict each other; leave one out")
    return settings


def _parse(arguments):
    parser = Parser("Train YOLOv8 and prune it while it trains. Every key of the YAML file is an option.")
    parser.add_argument("--config_path", metavar="FILE", help=f"recipe (default: {DEFAULT_CONFIG.name})")
    for name, field in Settings.model_fields.items():
        switch = {"nargs": "?", "const": "true", "metavar": "true|false"} if field.annotation is bool else {}
        choices = f": {', '.join(get_args(field.annotation))}" if get_origin(field.annotation) is Literal else ""
        text = f"{field.description}{choices}".replace("%", "%%")
        parser.add_argument(f"--{name}", **{"metavar": "VALUE", **switch}, help=text, default=argparse.SUPPRESS)
    return {key: value for key, value in vars(parser.parse_args(arguments)).items() if value is not None}

"""Configuration: every key with its type, range and meaning, in one place; YAML files and the command line on top.

Precedence: command line, then the file, then its `base` file, then the defaults below. Nothing is read at import.
"""

import difflib
import sys
from pathlib import Path
from typing import Annotated, Literal

import yaml
from easydict import EasyDict
from pydantic import BaseModel, Field, StringConstraints, ValidationError

from .command_line import Parser
from .data import DATASETS
from .errors import InputError
from .files import replace_file
from .models import MODELS
from .pruning.settings import PruningSettings, apply_method, complete

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_CONFIG = ROOT / "config" / "resnet20_digits.yaml"
PathName = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=4000)]  # what a system call takes


class Training(BaseModel):
    """What is trained, and how, pruning aside."""

    model: Literal[tuple(MODELS)] = Field("resnet20", description="network, by its name in src/models")
    width_factor: int = Field(1, ge=1, le=16, description="widens the CIFAR networks")
    dataset: Literal[tuple(DATASETS)] = Field("digits", description="data set")
    batch_size: int = Field(64, ge=1, description="training images per step")

    pretrained: PathName = Field(
        "", description="weights to start from: a checkpoint of MindSpore or PyTorch, or safetensors"
    )

    epoch_size: int = Field(40, ge=1, le=10**6, description="epochs to train")
    lr: float = Field(0.1, gt=0, description="peak learning rate; follows a cosine, per step")
    warmup_epochs: float = Field(2, ge=0, description="epochs of linear warm-up")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD momentum")
    nesterov: bool = Field(False, description="Nesterov momentum")
    weight_decay: float = Field(5e-4, ge=0, description="on weights; never on BatchNorm and biases")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread over all classes")

    mixup: float = Field(0.0, ge=0, description="alpha of mixup; 0: none")
    ema_decay: float = Field(0.0, ge=0, lt=1, description="moving average of the weights, the one deployed; 0: none")
    amp_level: Literal["O0", "O2", "O3", "auto"] = Field("O0", description="mixed precision, levels of mindspore.amp")
    sync_batch_norm: bool = Field(True, description="BatchNorm over the images of all workers, not of each its own")
    accumulation_steps: int = Field(1, ge=1, description="parts that a batch is computed in, one after the other")


class Recipe(PruningSettings, Training):  # fields of the last base come first
    """The keys that make a run's result: those of training, then those of pruning."""


class Config(Recipe):
    """The recipe, and where and how this run works."""

    seed: int = Field(0, ge=0, lt=2**31, description="seed of weights, data order and random growth")
    data_path: PathName = Field("", description="folder of the data set; the embedded digits need none")
    output_path: PathName = Field("output", min_length=1, description="folder for checkpoints, metrics and result")
    device_target: Literal["auto", "CPU", "GPU", "Ascend"] = Field("auto", description="device")
    num_workers: int = Field(2, ge=1, description="threads of the data pipeline, at most one per core")
    resume_ckpt: PathName = Field("", description="resume.ckpt to continue from, or auto for the one in output_path")
    force: bool = Field(False, description="resume with another recipe, where the difference is harmless")
    save_steps: int = Field(0, ge=0, description="write resume.ckpt every that many steps too; 0: not")
    save_minutes: float = Field(10, ge=0, description="write resume.ckpt every that many minutes too; 0: not")
    overwrite: bool = Field(False, description="replace the run that output_path holds")
    dry_run: bool = Field(False, description="print the resolved recipe and stop")


def load_config(arguments=None):
    """The validated configuration of a command line, as an EasyDict with one flat key per setting.

    arguments: list of words, sys.argv by default. Raises InputError naming the key, where it was set, and the mend.
    """
    path, given = _parse(sys.argv[1:] if arguments is None else arguments)
    values = read_yaml(path)
    config = resolve(values, given, where=str(path))
    # Named by a recipe, it may still have to be trained when the run is planned; a resumed run brings its weights.
    if given.get("pretrained") and not config.resume_ckpt:
        try:
            Path(config.pretrained).stat()
        except OSError as error:
            raise InputError(f"command line: pretrained: cannot read {config.pretrained}: {error.strerror}") from None
    return config


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
    if config.batch_size % config.accumulation_steps:
        raise InputError(
            f"{where}: batch_size {config.batch_size} does not divide into accumulation_steps "
            f"{config.accumulation_steps} equal parts"
        )
    return EasyDict(config.model_dump())


def read_yaml(path, including=()):
    """Settings of a YAML file on top of those of the file its `base` key names (relative to it).

    including: the files whose `base` led here. Raises InputError.
    """
    if "\0" in str(path):
        raise InputError(f"config_path: {str(path)!r} is not the name of a file")
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise InputError(f"config_path: cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"config_path: {path} is not valid YAML: {error}") from None
    except RecursionError:
        raise InputError(f"config_path: {path} is nested too deeply") from None
    if not isinstance(values, dict):
        raise InputError(f"config_path: {path} holds no `key: value` lines")
    base = values.pop("base", None)
    if base is None:
        return values
    base = path.parent / str(base)
    if "\0" not in str(base) and base.resolve() in (path.resolve(), *including):
        raise InputError(f"config_path: {path}: base {base} leads back to itself")
    return {**read_yaml(base, (path.resolve(), *including)), **values}


def save_yaml(config, path):
    """Write the resolved configuration, one key a line."""
    replace_file(path, [yaml.safe_dump(dict(config), sort_keys=False).encode("utf-8")])


def _parse(arguments):
    parser = Parser("Train a network and prune it while it trains. Every key of the YAML file is an option.")
    parser.add_argument("--config_path", default=str(DEFAULT_CONFIG), metavar="FILE", help="YAML file with the recipe")
    for name, field in Config.model_fields.items():
        if field.annotation is bool:
            parser.add_argument(f"--{name}", nargs="?", const="true", metavar="true|false", help=field.description)
        else:
            parser.add_argument(f"--{name}", metavar="VALUE", help=f"{field.description} (default: {field.default!r})")
    known, unknown = parser.parse_known_args(arguments)
    if unknown:
        name = unknown[0].partition("=")[0]
        raise InputError(f"command line: unknown option {name}{_nearest(name.lstrip('-'), '--')}")
    given = {key: value for key, value in vars(known).items() if value is not None and key != "config_path"}
    return known.config_path, given


def _check_names(values, where):
    for key in values:
        if key not in Config.model_fields:
            raise InputError(f"{where(key)}: unknown key {key!r}{_nearest(str(key))}")


def _nearest(name, prefix=""):
    close = difflib.get_close_matches(name, [*Config.model_fields, "config_path"], n=1)
    return f"; did you mean {prefix}{close[0]}?" if close else "; see config/ for the keys there are"


def _first_problem(error, given, where):
    problem = error.errors()[0]
    key = str(problem["loc"][0])
    source = "command line" if key in given else where
    return f"{source}: {key}: {problem['msg']}, not {problem['input']!r}"

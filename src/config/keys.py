"""Configuration: every key with its type, range and meaning, in one place; YAML files and the command line on top.

Precedence: command line, then the file, then its `base` file, then the defaults below. Nothing is read at import.
"""

import difflib
import sys
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin

import yaml
from easydict import EasyDict
from pydantic import BaseModel, Field, StringConstraints, ValidationError

from ..data import DATASETS
from ..models import MODELS
from ..platform.command_line import Parser
from ..platform.errors import InputError
from ..platform.files import replace_file
from ..pruning.settings import PruningSettings, apply_method, complete

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
    lr: float = Field(0.1, gt=0, description="peak learning rate; falls by a cosine after the warm-up, per step")
    warmup_epochs: float = Field(2, ge=0, description="epochs of linear warm-up")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD momentum")
    nesterov: bool = Field(False, description="Nesterov momentum")
    weight_decay: float = Field(5e-4, ge=0, description="on weights; never on BatchNorm and biases")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread over all classes")

    val_fraction: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the training images, held out to choose the best by; 0: the test set does",
    )

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
    eval_batch_size: int = Field(
        0, ge=0, description="images that a device evaluates at a time; 0: as many as it trains at a time"
    )
    resume_ckpt: PathName = Field("", description="resume.ckpt to continue from, or auto for the one in output_path")
    force: bool = Field(False, description="resume with another recipe, where the difference is harmless")
    save_steps: int = Field(0, ge=0, description="write resume.ckpt every that many steps too; 0: not")
    save_minutes: float = Field(10, ge=0, description="write resume.ckpt every that many minutes too; 0: not")
    overwrite: bool = Field(False, description="replace the run that output_path holds")
    dry_run: bool = Field(False, description="print the resolved recipe and stop")


def evaluation_batch(config, workers=1):
    """Images that each worker evaluates at a time: `eval_batch_size`, or as many as it trains at a time."""
    return config.eval_batch_size or config.batch_size // (workers * config.accumulation_steps)


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
    """The configuration file and the settings on a command line; prints the options and ends if asked for help."""
    known, unknown = _parser().parse_known_args(arguments)
    given = {key: value for key, value in vars(known).items() if value is not None}
    path = given.pop("config_path")
    if given.pop("help"):
        _parser(resolve(read_yaml(path), where=path), path).print_help()
        raise SystemExit(0)
    if unknown:
        name = unknown[0].partition("=")[0]
        if name.endswith((".yaml", ".yml")) and not name.startswith("-"):
            raise InputError(f"command line: {name} belongs to no option; did you mean --config_path {name}?")
        raise InputError(f"command line: unknown option {name}{_nearest(name.lstrip('-'), '--')}")
    return path, given


def _parser(values=None, path=DEFAULT_CONFIG):
    """A parser of all keys; its help shows as defaults `values`, the resolved configuration of the file `path`."""
    parser = Parser(
        "Train a network and prune it while it trains. Every key of the YAML file is an option; "
        f"defaults are what {_short(path)} comes to.",
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="store_true", help="show the options, with the defaults of a FILE")
    file_help = f"YAML file with the recipe (default: {_short(DEFAULT_CONFIG)})"
    parser.add_argument("--config_path", default=str(DEFAULT_CONFIG), metavar="FILE", help=file_help)
    for name, field in Config.model_fields.items():
        switch = {"nargs": "?", "const": "true", "metavar": "true|false"} if field.annotation is bool else {}
        parser.add_argument(f"--{name}", **{"metavar": "VALUE", **switch}, help=_describe(name, field, values or {}))
    return parser


def _describe(name, field, values):
    """The meaning of a key, its choices if it has any, and its value if that is not empty."""
    choices = ", ".join(get_args(field.annotation)) if get_origin(field.annotation) is Literal else ""
    text = f"{field.description}: {choices}" if choices else field.description
    value = values.get(name, "")
    shown = str(value).lower() if isinstance(value, bool) else str(value)
    return (f"{text} (default: {shown})" if shown else text).replace("%", "%%")


def _short(path):
    """A path, relative to the project where it lies in it."""
    return Path(path).relative_to(ROOT) if Path(path).is_relative_to(ROOT) else path


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

"""The configuration of a command line: the command line, then the file, then its `base` file, then the defaults."""

import sys
from pathlib import Path
from typing import Literal, get_args, get_origin

from ..platform.command_line import Parser
from ..platform.errors import InputError
from .files import DEFAULT_CONFIG, RECIPES, read_yaml
from .keys import Config, nearest, resolve


def load_config(arguments=None):
    """The validated configuration of a command line, as an EasyDict with one flat key per setting.

    arguments: list of words, sys.argv by default. Raises InputError naming the key, where it was set, and the mend.
    """
    path, given = _parse(sys.argv[1:] if arguments is None else arguments)
    values = read_yaml(path)
    config = resolve(values, given, where=str(path))
    # Named by a recipe, it may still have to be trained when the run is planned; a resumed run brings its weights.
    named = [] if config.resume_ckpt else ["pretrained"]
    for key in [*named, "teacher"]:
        if given.get(key):
            try:
                Path(config[key]).stat()
            except OSError as error:
                raise InputError(f"command line: {key}: cannot read {config[key]}: {error.strerror}") from None
    return config


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
        raise InputError(f"command line: unknown option {name}{nearest(name.lstrip('-'), '--')}")
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
    return Path(path).relative_to(RECIPES.parent) if Path(path).is_relative_to(RECIPES.parent) else path

"""Configurations as YAML files. Nothing is read at import."""

import os
from pathlib import Path

import yaml

from ..platform.errors import InputError
from ..platform.files import read_regular, replace_file
from ..platform.schema import shown

PACKAGE = Path(__file__).resolve().parent.parent
# The installed package has the recipes inside.
RECIPES = next(folder for folder in (PACKAGE / "recipes", PACKAGE.parent / "config") if folder.is_dir())
DEFAULT_CONFIG = RECIPES / "resnet20_digits.yaml"
_LARGEST_FILE = 100_000  # bytes, some seconds of PyYAML's time
_MOST_ALIASES = 20
_MOST_BASES = 20
_MOST_LEVELS = 20


def read_yaml(path, including=()):
    """Settings of a YAML file on top of those of the file its `base` key names (relative to it).

    including: the files whose `base` led here. Raises InputError.
    """
    values = parse_yaml(read_regular(path, f"config_path: cannot read {path}", _LARGEST_FILE), f"config_path: {path}")
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise InputError(f"config_path: {path}: base: {shown(base)} is not the name of a file")
    base = Path(path).parent / base
    including = (os.path.realpath(path), *including)
    if "\0" not in str(base) and os.path.realpath(base) in including:
        raise InputError(f"config_path: {path}: base {base} leads back to itself")
    if len(including) > _MOST_BASES:
        raise InputError(f"config_path: {path}: base {base} is the {len(including)}th of a chain; write fewer files")
    return {**read_yaml(base, including), **values}


def parse_yaml(content, where):
    """The `key: value` lines of a YAML text, given as bytes. Raises InputError that begins with `where`."""
    try:
        values = yaml.load(content.decode("utf-8"), _Loader) or {}
    except yaml.MarkedYAMLError as error:
        raise InputError(f"{where} is not valid YAML: {error}") from None
    except Exception as error:  # what makes numbers and dates of text raises almost anything
        raise InputError(f"{where} is not valid YAML: {str(error) or type(error).__name__:.200}") from None
    if not isinstance(values, dict):
        raise InputError(f"{where} holds no `key: value` lines")
    return values


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, within limits.

    Each alias can double what the text stands for, and each level of brackets makes the scanner slower.
    """

    def __init__(self, text):
        super().__init__(text)
        self.aliases = self.depth = 0

    def compose_node(self, parent, index):
        self.aliases += self.check_event(yaml.AliasEvent)
        self.depth += 1
        for count, most, what in ((self.aliases, _MOST_ALIASES, "aliases"), (self.depth, _MOST_LEVELS, "levels")):
            if count > most:
                raise yaml.MarkedYAMLError(
                    problem=f"more than {most} {what}", problem_mark=self.peek_event().start_mark
                )
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def save_yaml(config, path):
    """Write the resolved configuration, one key a line."""
    replace_file(path, [yaml.safe_dump(dict(config), sort_keys=False).encode("utf-8")])

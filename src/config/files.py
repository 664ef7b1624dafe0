"""Configurations as YAML files. Nothing is read at import."""

from pathlib import Path

import yaml

from ..platform.errors import InputError
from ..platform.files import replace_file

PACKAGE = Path(__file__).resolve().parent.parent
# The installed package has the recipes inside.
RECIPES = next(folder for folder in (PACKAGE / "recipes", PACKAGE.parent / "config") if folder.is_dir())
DEFAULT_CONFIG = RECIPES / "resnet20_digits.yaml"


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

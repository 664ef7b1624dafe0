"""RPG: rank-based pruning for MindSpore. For networks of your own: `RPG`, see docs/library.md."""

from importlib import import_module

from .platform import environment

environment.prepare()  # before any module of this package imports mindspore

# The public names, and their homes.
_MODULES = {"RPG": "library", "InputError": "platform.errors", "select_device": "platform.device"}

__version__ = "0.2.0"
__all__ = list(_MODULES)


def __getattr__(name):
    """Import a public name when it is asked for: the environment can be prepared without MindSpore."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)

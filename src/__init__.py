"""RPG: rank-based pruning for MindSpore."""

from . import environment

environment.prepare()  # before any module of this package imports mindspore

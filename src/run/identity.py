"""What makes a run the run it is, recipe, data and versions: all hosts of a job must agree on it, and a run that goes
on must find its data as it was.
"""

import json

import mindspore as ms
import numpy as np

from .. import __version__
from ..platform.errors import InputError

TEACHER = "teacher weights"  # the name of their digest in the content

# Each host may have its own; everything else in a configuration decides what its workers do, and when.
OWN = ("data_path", "output_path", "device_target", "num_workers", "resume_ckpt", "overwrite", "pretrained", "teacher")


def identity(config, content):
    """Everything that the workers of a job must have alike, as text by name; content: `Data.content()`."""
    versions = {"RPG": __version__, "MindSpore": ms.__version__, "numpy": np.__version__}
    settings = {key: value for key, value in config.items() if key not in OWN}
    return {name: str(value) for name, value in {**settings, **content, **versions}.items()}


def check_alike(mine, workers):
    """Compare `identity` over the workers of a job, before its first step. Collective.

    Raises InputError on every worker, with what differs and where, if one is not as worker 0.
    """
    first, *others = map(json.loads, workers.gather_text(json.dumps(mine)))
    for worker, other in enumerate(others, start=1):
        differing = differences(first, other, "on worker 0", f"on worker {worker}")
        if differing:
            raise InputError(f"the workers of this job are not alike: {differing}; give all hosts the same")


def check_content(path, saved, found):
    """Raise InputError, with the differences, if a run's data or teacher is not what it was.

    saved, found: `Parts.content()` as the run's state at `path` has it (None: it is too old to say), and as it is now.
    """
    differing = "" if saved is None else differences(saved, found, "in the run", "now")
    if differing and {**saved, TEACHER: None} == {**found, TEACHER: None}:
        raise InputError(f"teacher: not that of the run in {path}: {differing}; give the file that it learnt from")
    if differing:
        raise InputError(
            f"data_path: not the data of the run in {path}: {differing}; give the folder that it was trained with"
        )


def differences(one, other, of_one, of_other):
    """What differs between two dicts of text, in words; empty if nothing does."""
    return ", ".join(
        f"{key} is {one.get(key, 'unknown')} {of_one}, {other.get(key, 'unknown')} {of_other}"
        for key in {**one, **other}
        if one.get(key) != other.get(key)
    )

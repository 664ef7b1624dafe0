"""Going on with a run: where its state is found, and whether it fits the configuration."""

import hashlib
import json

from ..config.keys import Recipe
from ..platform.errors import InputError
from ..weights.checkpoint import read_checkpoint

# Keys that say how a step is computed, or where weights came from; the schedule and the data stay the same.
HARMLESS = ("pretrained", "teacher", "rank_solver", "accumulation_steps")


def previous_of(path):
    """Where the state before the newest is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def read_run(path):
    """Arrays and progress of a run's state, and the file they come from: `path`, or the copy before it.

    Raises InputError if the file is not a run's, or if both are missing or damaged.
    """
    try:
        arrays, progress = read_checkpoint(path)
    except InputError as error:
        problem = error
        path = previous_of(path)
        if not path.exists():
            raise
        try:
            arrays, progress = read_checkpoint(path)
        except InputError as error:
            raise InputError(f"{problem}; nor is the copy before it good: {error}") from None
    if "step" not in progress:
        raise InputError(f"resume_ckpt: {path} holds a trained network, not a run; give a resume.ckpt")
    return arrays, progress, path


def check_recipe(path, saved, config, changed=()):
    """Raise InputError, with the differences, if the saved configuration has another recipe or seed than `config`.

    changed: keys that may differ. With `config.force`, differences in HARMLESS keys are allowed.
    """
    defaults = {key: field.default for key, field in Recipe.model_fields.items()}  # for keys younger than the file
    was = {**defaults, **saved}
    allowed = (*changed, *HARMLESS) if config.force else changed
    refused = [key for key in [*defaults, "seed"] if was.get(key) != config[key] and key not in allowed]
    if not refused:
        return
    differences = "; ".join(f"{key} was {was.get(key)!r}, is {config[key]!r}" for key in refused)
    mend = "" if set(refused) - set(HARMLESS) else "; go on all the same with --force"
    if refused == ["epoch_size"] and config.epoch_size > was["epoch_size"]:
        mend = "; let it come to its end first, then it can be extended"
    raise InputError(f"resume_ckpt: {path} comes from a run with another recipe: {differences}{mend}")


def recipe_hash(config):
    """Twelve digits that two configurations share if their runs are the same: same recipe, same seed."""
    text = json.dumps({key: config[key] for key in [*Recipe.model_fields, "seed"]}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]

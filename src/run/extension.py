"""More epochs for a run that has ended: its masks stay as they are, and it trains on.

The learning rate is a function of the step and the configuration, here as everywhere: it goes on as that of a run of so
many epochs, from the step that is reached. What pruning refers to remains the length of the first run, which the
configuration then has as `pruning_epochs`.
"""

from easydict import EasyDict

from ..platform.errors import InputError
from .folder import RunFolder
from .resume import read_run
from .state_schema import read_progress

EXTENDED = ("epoch_size", "lr")  # what may differ from the run that is extended


def continued(config):
    """The configuration of a run that goes on, with the `pruning_epochs` that follow from its state.

    It comes back as it is if nothing goes on, or if the state cannot be read or does not fit: that is said where it is
    loaded.
    """
    if not config.resume_ckpt or config.pruning_epochs:
        return config
    path = RunFolder(config.output_path).resume_path(config.resume_ckpt)
    try:
        _, saved, path = read_run(path)
        saved = read_progress(path, saved)
    except InputError:
        return config
    epochs = recipe_before(saved, config).get("pruning_epochs", 0)
    return EasyDict({**config, "pruning_epochs": epochs}) if isinstance(epochs, int) else config


def recipe_before(saved, config):
    """The configuration in a SavedRun; for one that has more epochs, with `pruning_epochs` spelt out."""
    before = saved.config
    if not is_longer(saved, config):
        return before
    return {**before, "pruning_epochs": before.get("pruning_epochs") or before["epoch_size"]}


def is_longer(saved, config):
    """Whether a SavedRun has ended, and a configuration has more epochs than it."""
    epochs = saved.config.get("epoch_size")
    return isinstance(epochs, int) and saved.epoch == epochs < config.epoch_size


def describe_extension(saved, config, rates):
    """The line that tells of an extension; rates: the learning rate of every step."""
    begin, end = rates[saved.step], rates[-1]
    epochs = config.epoch_size
    return (
        f"extending the run from {saved.epoch} to {epochs} epochs: masks stay as they are; the learning rate is that "
        f"of a run of {epochs} epochs from there on, {begin:.5f} down to {end:.5f} (lr {config.lr:g})"
    )

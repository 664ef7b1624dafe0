"""The state of a run in one checkpoint: weights, optimiser state, masks, and how far it has come."""

import numpy as np
from mindspore import Tensor, ops

from .checkpoint import load_weights, read_checkpoint, write_checkpoint
from .config import Recipe
from .errors import InputError


def save(path, network, optimizer, pruner, progress, others=()):
    """Write everything that `restore` needs; progress: JSON-able dict with at least `step`; others: more Parameters."""
    tensors = {f"network.{parameter.name}": parameter for parameter in network.get_parameters()}
    tensors.update({f"optimizer.{state.name}": state for state in _optimizer_state(network, optimizer)})
    tensors.update({f"other.{parameter.name}": parameter for parameter in others})
    if pruner is not None:
        for weight, mask in zip(pruner.weights, pruner.masks):
            tensors[f"mask.{weight.name}"] = np.packbits(mask)
    write_checkpoint(path, tensors, progress)


def restore(path, network, optimizer, pruner, others=()):
    """Put a saved state into freshly built objects; returns the progress.

    Raises InputError if the file is not a run's, or does not fit.
    """
    tensors, progress = read_checkpoint(path)
    if "step" not in progress:
        raise InputError(f"resume_ckpt: {path} holds a trained network, not a run; give a resume.ckpt")
    prefix = "network."
    load_weights(network, {n[len(prefix) :]: t for n, t in tensors.items() if n.startswith(prefix)}, path)
    try:
        for state in _optimizer_state(network, optimizer):
            ops.assign(state, Tensor(tensors[f"optimizer.{state.name}"]))
        for parameter in others:
            ops.assign(parameter, Tensor(tensors[f"other.{parameter.name}"]))
        if pruner is not None:
            packed = [(tensors[f"mask.{weight.name}"], weight) for weight in pruner.weights]
            pruner.load_masks(
                np.unpackbits(bits, count=weight.size).astype(bool).reshape(weight.shape) for bits, weight in packed
            )
    except KeyError as error:
        raise InputError(f"resume_ckpt: {path} lacks {error}; it comes from a run with another recipe") from None
    return progress


def check_recipe(path, saved, config):
    """Raise InputError, with the differences, if the saved configuration has another recipe or seed than `config`."""
    changed = [
        f"{key} was {saved.get(key)!r}, is {config[key]!r}"
        for key in [*Recipe.model_fields, "seed"]
        if saved.get(key) != config[key]
    ]
    if changed:
        raise InputError(f"resume_ckpt: {path} comes from a run with another recipe: {'; '.join(changed)}")


def _optimizer_state(network, optimizer):
    """The optimiser's own Parameters; the learning-rate table is built from the configuration."""
    trained = {parameter.name for parameter in network.get_parameters()}
    return [p for p in optimizer.get_parameters() if p.name not in trained and p.name != "learning_rate"]

"""The state of a run in one checkpoint: weights, optimiser state, masks, and how far it has come.

Everything random in a run is a function of the seed and the step, so no generator's state has to be kept.
"""

import hashlib
import json

import numpy as np
from mindspore import Tensor, ops

from ..config.keys import Recipe
from ..platform.errors import InputError
from ..platform.parallel import SINGLE, digest_of
from ..weights.checkpoint import load_weights, read_checkpoint

# Keys that say how a step is computed, or where the first weights came from; the schedule and the data stay the same.
HARMLESS = ("pretrained", "rank_solver", "accumulation_steps")


class RunState:
    """All that training changes, as named arrays; `arrays()` gives them, `load()` puts them back into fresh objects.

    others: Parameters beside those of network and optimiser; own: float32 Parameters, among them or not, that differ
    between workers, such as BatchNorm's moving averages: each worker's are kept, and given back if their number is
    the same. With another number of workers each gets their mean.
    """

    def __init__(self, network, optimizer, pruner, others=(), own=(), workers=SINGLE):
        self.network = network
        self.pruner = pruner
        self.own = list(own)
        self.workers = workers
        trained = {parameter.name for parameter in network.get_parameters()}
        # The table of learning rates is built from the configuration.
        rest = [p for p in optimizer.get_parameters() if p.name not in trained and p.name != "learning_rate"]
        self.named = {f"optimizer.{state.name}": state for state in rest}
        self.named.update({f"other.{parameter.name}": parameter for parameter in others})

    def arrays(self):
        """Arrays and Parameters by name. Collective: all workers must call it."""
        arrays = {f"network.{parameter.name}": parameter for parameter in self.network.get_parameters()}
        arrays.update(self.named)
        if self.pruner is not None:
            for weight, mask in zip(self.pruner.weights, self.pruner.masks):
                arrays[f"mask.{weight.name}"] = np.packbits(mask)
        if self.workers.size > 1 and self.own:
            arrays["workers.own"] = self.workers.gather(np.concatenate([p.asnumpy().ravel() for p in self.own]))
        return arrays

    def check_equal(self, step):
        """Compare what all workers must have alike: trained weights, masks, all else but their own. Collective.

        Raises RuntimeError on every worker, with the step and the workers that differ.
        """
        if self.workers.size == 1:
            return
        own = {id(parameter) for parameter in self.own}
        shared = [*self.network.trainable_params(), *(p for p in self.named.values() if id(p) not in own)]
        masks = [] if self.pruner is None else self.pruner.masks
        digest = digest_of([*(parameter.asnumpy() for parameter in shared), *masks, step])
        self.workers.check_equal(digest, f"weights and optimiser state after step {step}")

    def load(self, arrays, path):
        """Set everything from what `arrays()` gave. Raises InputError if it comes from another kind of run."""
        prefix = "network."
        load_weights(self.network, {n[len(prefix) :]: a for n, a in arrays.items() if n.startswith(prefix)}, path)
        try:
            for name, parameter in self.named.items():
                ops.assign(parameter, Tensor(arrays[name]))
            if self.pruner is not None:
                packed = [(arrays[f"mask.{weight.name}"], weight) for weight in self.pruner.weights]
                self.pruner.load_masks(
                    np.unpackbits(bits, count=weight.size).astype(bool).reshape(weight.shape) for bits, weight in packed
                )
        except KeyError as error:
            raise InputError(f"resume_ckpt: {path} lacks {error}; it comes from a run with another recipe") from None
        if "workers.own" in arrays:
            self._load_own(arrays["workers.own"])

    def _load_own(self, rows):
        same = len(rows) == self.workers.size
        values = rows[self.workers.rank] if same else rows.mean(0, dtype=np.float64).astype(np.float32)
        parts = np.split(values, np.cumsum([parameter.size for parameter in self.own])[:-1])
        for parameter, part in zip(self.own, parts):
            ops.assign(parameter, Tensor(part.reshape(parameter.shape)))


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


def check_recipe(path, saved, config):
    """Raise InputError, with the differences, if the saved configuration has another recipe or seed than `config`.

    With `config.force`, differences in HARMLESS keys are allowed.
    """
    defaults = {key: field.default for key, field in Recipe.model_fields.items()}  # for keys younger than the file
    was = {**defaults, **saved}
    changed = [key for key in [*defaults, "seed"] if was.get(key) != config[key]]
    refused = [key for key in changed if not (config.force and key in HARMLESS)]
    if not refused:
        return
    differences = "; ".join(f"{key} was {was.get(key)!r}, is {config[key]!r}" for key in refused)
    mend = "" if set(refused) - set(HARMLESS) else "; go on all the same with --force"
    raise InputError(f"resume_ckpt: {path} comes from a run with another recipe: {differences}{mend}")


def recipe_hash(config):
    """Twelve digits that two configurations share if their runs are the same: same recipe, same seed."""
    text = json.dumps({key: config[key] for key in [*Recipe.model_fields, "seed"]}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]

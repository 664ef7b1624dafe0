"""All that training changes, as named arrays: weights, optimiser state, masks, and whatever else moves.

Everything random in a run is a function of the seed and the step, so no generator's state has to be kept.
"""

import numpy as np
from mindspore import Tensor, ops

from ..platform.errors import InputError
from ..platform.parallel import SINGLE, digest_of
from ..weights.checkpoint import load_weights


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

    def load(self, arrays, path, step=None):
        """Set everything from what `arrays()` gave after `step` (None: the masks need not fit a schedule).

        Raises InputError if it comes from another kind of run, or its masks fit neither weights nor schedule; then
        only weights may have changed.
        """
        prefix = "network."
        load_weights(self.network, {n[len(prefix) :]: a for n, a in arrays.items() if n.startswith(prefix)}, path)
        for name, parameter in self.named.items():
            _check_like(parameter, _array_of(arrays, name, path), name, path)
        masks = None if self.pruner is None else self._masks(arrays, path, step)
        rows = arrays.get("workers.own")
        if rows is not None:
            own = sum(parameter.size for parameter in self.own)
            if rows.ndim != 2 or rows.shape[1] != own or rows.dtype != np.float32:
                raise InputError(f"resume_ckpt: {path}: workers.own is not float32 of {own} columns")
        for name, parameter in self.named.items():
            ops.assign(parameter, Tensor(arrays[name]))
        if masks is not None:
            self.pruner.load_masks(masks)
        if rows is not None:
            self._load_own(rows)

    def _masks(self, arrays, path, step):
        """The masks in `arrays`, which must be whole, zero the weights, and keep as many as the schedule says."""
        masks = []
        for weight in self.pruner.weights:
            name = f"mask.{weight.name}"
            bits = _array_of(arrays, name, path)
            if bits.dtype != np.uint8 or bits.shape != (-(-weight.size // 8),):
                raise InputError(f"resume_ckpt: {path}: {name} is not a mask of {weight.size} weights")
            mask = np.unpackbits(bits, count=weight.size).astype(bool).reshape(weight.shape)
            if weight.asnumpy()[~mask].any():
                raise InputError(f"resume_ckpt: {path}: {weight.name} has non-zero weights outside its mask")
            masks.append(mask)
        kept = sum(map(np.count_nonzero, masks))
        if step is not None and kept != self.pruner.budget_at(step):
            expected = self.pruner.budget_at(step)
            raise InputError(f"resume_ckpt: {path}: its masks keep {kept} weights, not {expected} as after step {step}")
        reached = step is not None and self.pruner.schedule.reached_target(step)
        broken = reached and self.pruner.broken_pattern(masks)
        if broken:
            pattern = self.pruner.patterned.pattern
            raise InputError(f"resume_ckpt: {path}: the mask of {broken} has not the pattern {pattern}")
        return masks

    def _load_own(self, rows):
        same = len(rows) == self.workers.size
        values = rows[self.workers.rank] if same else rows.mean(0, dtype=np.float64).astype(np.float32)
        parts = np.split(values, np.cumsum([parameter.size for parameter in self.own])[:-1])
        for parameter, part in zip(self.own, parts):
            ops.assign(parameter, Tensor(part.reshape(parameter.shape)))


def _array_of(arrays, name, path):
    if name not in arrays:
        raise InputError(f"resume_ckpt: {path} lacks {name!r}; it comes from a run with another recipe")
    return arrays[name]


def _check_like(parameter, array, name, path):
    expected = parameter.asnumpy()
    if (array.dtype, array.shape) != (expected.dtype, expected.shape):
        raise InputError(
            f"resume_ckpt: {path}: {name} is {array.dtype} {array.shape}, not {expected.dtype} {expected.shape}"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"resume_ckpt: {path}: {name} has values that are not finite; use another copy")

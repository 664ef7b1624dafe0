"""Prune any MindSpore network while it trains, in a loop of your own or in `mindspore.train.Model`.

    pruning = RPG(network, total_steps=epochs * dataset.get_dataset_size(), sparsity=0.98)
    step = pruning.train_step(loss_fn, optimizer)
    Model(step).train(epochs, dataset)      # or: for batch in dataset...: loss = step(*batch)
    pruning.check()

The parts are those of the programs here (pruner, schedule, rank term, training step); docs/library.md has the whole.
"""

import difflib
import warnings
from numbers import Integral

import mindspore as ms
import numpy as np
from mindspore import nn
from pydantic import ValidationError

from .platform.errors import InputError
from .platform.parallel import digest_of, joined_workers
from .pruning.allocation import Allocation
from .pruning.layers import LayerChoice, pattern_of
from .pruning.methods import METHODS, build_schedule
from .pruning.pruner import Pruner, transposed_groups
from .pruning.settings import PruningSettings, apply_method, complete
from .report.sparsity import format_layers, format_summary, sparsity_report
from .rpg_cell import RPGWithLossCell, build_rank_term
from .training.finite import check_parameters
from .training.state import RunState
from .training.train_step import Pruning, TaskLoss, TrainStep
from .weights.checkpoint import read_checkpoint, write_checkpoint


class RPG:
    """Rank-based pruning of one network over one training.

    network: nn.Cell; it keeps its parameters, their names, and its own forward pass. total_steps: batches of the whole
    training. seed: of random masks and random growth. settings: any of PruningSettings, such as method, sparsity,
    update_interval, rank_weight, tail_energy; and of LayerChoice, whose patterns are of weights' or layers' names, as
    in `fnmatch`:

    include: patterns of any trained parameters of two dimensions or more, instead of the default layers, which are all
    trained convolutions and dense layers;
    exclude: patterns of weights to leave dense; they do not count in the sparsity;
    densities: {pattern: density in (0, 1]} of single layers; the others make up for it, the sparsity stays exact;
    rank_layers: patterns of the pruned weights that take part in the rank term, instead of all convolutions.

    Raises InputError where the settings do not fit each other, the network or the number of steps.
    """

    def __init__(self, network, total_steps, *, seed=0, **settings):
        choice = LayerChoice(**{key: settings.pop(key) for key in LayerChoice._fields if key in settings})
        _check_training(network, total_steps)
        self.network = network
        self.settings = _resolve(settings)
        if choice.densities and self.settings.distribution == "uniform":
            raise InputError("RPG: distribution uniform leaves no layer a density of its own; use global or erk")
        if choice.densities and self.settings.pattern:
            raise InputError("RPG: densities: a pattern gives every layer its own; leave one of the two out")
        weights = choice.weights(network)
        self._rank_weights = choice.rank_weights(network, weights) if self.settings.rank_weight else []
        if self.settings.rank_weight and not self._rank_weights:
            warnings.warn("no convolution takes part in the rank term; name dense layers in rank_layers", stacklevel=2)
        self.pruner = _build_pruner(
            self.settings, network, weights, choice.densities_by_index(weights), total_steps, seed
        )
        self._recipe = {  # what `restore` asks to be the same
            "total_steps": int(total_steps),
            "seed": int(seed),
            "weights": [weight.name for weight in weights],
            "rank_weights": [weight.name for weight in self._rank_weights],
            "densities": {pattern: float(density) for pattern, density in (choice.densities or {}).items()},
            **self.settings.model_dump(),
        }
        self._step = None
        self._state = None

    def train_step(self, loss_fn, optimizer):
        """The training step: a Cell of one batch that returns its loss; call it, or give it to `mindspore.train.Model`.

        loss_fn: of (output, label), where the label is the last part of a batch and all before it goes to the network;
        None if the network takes the whole batch and returns its loss. optimizer: of mindspore.nn, over at least the
        pruned weights. Steps are counted from here, or from where `restore` says. Among the workers of a job that has
        been joined by `mindspore.communication.init`, gradients are averaged; call it on all of them.
        """
        _check_optimizer(optimizer, self.pruner.weights)
        if ms.get_context("mode") != ms.PYNATIVE_MODE:
            raise InputError(
                "RPG: masks are chosen on the host, which graph mode rules out; call "
                "mindspore.set_context(mode=mindspore.PYNATIVE_MODE) first. The step itself is compiled all the same"
            )
        workers = joined_workers()
        if workers.size > 1:
            weights = (parameter.asnumpy() for parameter in self.network.get_parameters())
            workers.check_equal(digest_of(weights), "weights before step 1")
        task, objective = TaskLoss(self.network, loss_fn), None
        if self._rank_weights:
            rank_term = build_rank_term(self.settings.rank_solver, self.settings.tail_energy)
            objective = RPGWithLossCell(
                task,
                rank_term,
                self.settings.rank_weight,
                self._rank_weights,
                workers,
                transposed_groups(self.network),
            )
        # What is not trained may differ between workers: BatchNorm's moving averages.
        statistics = [p for p in self.network.get_parameters() if not p.requires_grad and p.dtype == ms.float32]
        self._state = RunState(self.network, optimizer, self.pruner, own=statistics, workers=workers)
        pruning = Pruning(self.pruner, objective, self.settings.rank_interval)
        self._step = TrainStep(task, optimizer, pruning, workers=workers)
        return PruningStep(self.network, optimizer, self._step)

    @property
    def masks(self):
        """Boolean mask of every pruned weight, by its name; True where a weight lives."""
        return {weight.name: mask for weight, mask in zip(self.pruner.weights, self.pruner.masks)}

    @property
    def density(self):
        """Share of the pruned layers' weights that live, counted from the masks."""
        return self.pruner.density

    @property
    def sparsity(self):
        """Share of zeros in the pruned layers, counted from the weights themselves."""
        zeros = sum(int((weight.asnumpy() == 0).sum()) for weight in self.pruner.weights)
        return zeros / sum(weight.size for weight in self.pruner.weights)

    def check(self):
        """Raise RuntimeError unless the target is met: its number of weights live, in its pattern if there is one, and
        all others are exactly zero.

        Warns of layers without a living weight, which one threshold over all layers may leave behind. Raises
        InputError while the target has not been reached.
        """
        schedule, step = self.pruner.schedule, 0 if self._step is None else self._step.step
        if schedule.density_at(step) != schedule.density:
            raise InputError(
                f"check: the training is at step {step} of {schedule.total_steps}, and the target density "
                f"{schedule.density:g} is reached at step {schedule.last_pruning_step}; train on, or give RPG the "
                "total_steps that you train"
            )
        self.pruner.check()
        dead = [name for name, mask in self.masks.items() if not mask.any()]
        if dead:
            warnings.warn(f"no weight is left in {', '.join(dead)}; set min_layer_density", stacklevel=2)

    def report(self):
        """Counts and ranks, of every layer and in all, from the weights themselves; see `sparsity_report`."""
        weights = {weight.name: weight.asnumpy() for weight in self.pruner.weights}
        return sparsity_report(weights, self.settings.tail_energy, transposed_groups(self.network))

    def table(self):
        """The report as text."""
        report = self.report()
        return f"{format_layers(report)}\n{format_summary(report)}"

    def save(self, path, **progress):
        """Write all that `restore` needs: weights, optimiser state, masks, step; and whatever JSON `progress` holds.

        The file is replaced in one step. Among workers call it on all of them; the first one writes.
        """
        self._require_step("save")
        self._check_finite()
        self._state.check_equal(self._step.step)
        arrays = self._state.arrays()
        if self._state.workers.rank == 0:
            write_checkpoint(path, arrays, {**progress, "step": self._step.step, "recipe": self._recipe})

    def _check_finite(self):
        """Raise InputError if a step, or what it left in the parameters, was not finite."""
        self._step.watch.check()
        check_parameters(self.network.trainable_params(), self._step.step)

    def restore(self, path):
        """Continue where `save` was called, in a fresh process with the same settings; call it after `train_step`.

        Returns the progress given to `save`, with `step`. Raises InputError if the file does not fit.
        """
        self._require_step("restore")
        arrays, progress = read_checkpoint(path)
        saved = progress.pop("recipe", None)
        if saved is None:
            raise InputError(f"{path}: not a file of RPG.save")
        saved = {**_DEFAULTS, **saved}  # for settings younger than the file
        changed = [_difference(key, saved.get(key), now) for key, now in self._recipe.items() if saved.get(key) != now]
        if changed:
            raise InputError(f"{path}: comes from a run with other settings: {'; '.join(changed)}")
        self._state.load(arrays, path)
        self._step.step = progress["step"]
        self._step.watch.forget()
        return progress

    def _require_step(self, what):
        if self._step is None:
            raise InputError(f"RPG: {what} needs the optimiser; call train_step first")


class PruningStep(nn.Cell):
    """A TrainStep in the form that `mindspore.train.Model` and its callbacks know: a Cell of a batch -> loss."""

    def __init__(self, network, optimizer, inner):
        super().__init__(auto_prefix=False)
        self.network = network
        self.optimizer = optimizer
        self.inner = inner

    def construct(self, *batch):
        for position, part in enumerate(batch, start=1):
            if isinstance(part, np.ndarray):
                raise InputError(
                    f"training step: part {position} of the batch is {_kind(part)}; give a mindspore.Tensor, as in "
                    "mindspore.Tensor(part)"
                )
        if not self.network.training:  # an evaluation in between leaves it so
            self.network.set_train()
        return self.inner(*batch)


_DEFAULTS = {key: field.default for key, field in PruningSettings.model_fields.items()}


def _check_training(network, total_steps):
    """Raise InputError unless it is a network, and a number of batches."""
    if not isinstance(network, nn.Cell):
        raise InputError(f"RPG: network: a Cell of mindspore.nn, not {_kind(network)}")
    if not isinstance(total_steps, Integral) or total_steps < 1:
        raise InputError(f"RPG: total_steps: a number of batches, at least 1, not {total_steps!r}")


def _resolve(settings):
    """PruningSettings from keyword arguments. Raises InputError."""
    if settings.get("method") == "dense":
        raise InputError("RPG: method dense prunes nothing; train without RPG")
    try:
        resolved = PruningSettings(**settings)
        apply_method(resolved, settings)
        complete(resolved)
    except ValidationError as error:
        raise InputError(f"RPG: {_first_problem(error)}") from None
    except ValueError as error:
        raise InputError(f"RPG: {error}") from None
    return resolved


def _build_pruner(settings, network, weights, densities, total_steps, seed):
    """The pruner of some weights of a network over a training. Raises InputError."""
    allocation = Allocation(settings.distribution, settings.min_layer_density, densities)
    growth = METHODS[settings.method]["growth"]
    try:
        patterned = pattern_of(settings, network, weights)
        return Pruner(weights, build_schedule(settings, total_steps), allocation, growth, seed, patterned)
    except ValueError as error:
        raise InputError(f"RPG: {error}") from None


def _first_problem(error):
    problem = error.errors()[0]
    key = str(problem["loc"][0])
    if problem["type"] == "extra_forbidden":
        close = difflib.get_close_matches(key, [*PruningSettings.model_fields, *LayerChoice._fields], n=1)
        return f"unknown setting {key!r}; {f'did you mean {close[0]}?' if close else 'see docs/library.md'}"
    return f"{key}: {problem['msg']}, not {problem['input']!r}"


def _difference(key, was, now):
    """Both values of a setting; of two lists, how long they are and what the other one lacks."""
    if isinstance(was, list) and isinstance(now, list) and set(was) != set(now):
        was, now = _beside(was, now), _beside(now, was)
    else:
        was, now = repr(was), repr(now)
    return f"{key} was {was}, is {now}"


def _beside(names, others):
    own = [name for name in names if name not in others]
    return f"{len(names)} with {', '.join(own)}" if own else f"{len(names)}"


def _kind(value):
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


# In these, masked gradients and a state of zeros leave a weight at zero, and what grows starts as it should: a test
# goes through them. Of the others, Adagrad and ProximalAdagrad divide by their state, Rprop steps by it, and the CPU,
# where the tests run, has no kernels of Lamb and LARS.
OPTIMIZERS = (
    nn.AdaFactor,
    nn.AdaMax,
    nn.Adadelta,
    nn.Adam,
    nn.AdamOffload,
    nn.AdamWeightDecay,
    nn.ASGD,
    nn.FTRL,
    nn.LazyAdam,
    nn.Momentum,
    nn.RMSProp,
    nn.SGD,
)


def _check_optimizer(optimizer, weights):
    """Raise InputError unless it trains all these weights and is of a kind that works with masks.

    A class of one's own, derived from `nn.Optimizer` itself, is taken as it is.
    """
    if not isinstance(optimizer, nn.Optimizer):
        raise InputError(
            f"train_step: {type(optimizer).__name__} is not an optimiser of mindspore.nn; use one of those"
        )
    known = next(kind for kind in type(optimizer).__mro__ if kind.__module__.startswith("mindspore."))
    if known not in (*OPTIMIZERS, nn.Optimizer):
        works = ", ".join(kind.__name__ for kind in OPTIMIZERS)
        raise InputError(
            f"train_step: {known.__name__} does not work with masks, or could not be tested; use one of {works}"
        )
    trained = {id(parameter) for parameter in optimizer.parameters}
    missing = [weight.name for weight in weights if id(weight) not in trained]
    if missing:
        raise InputError(
            f"train_step: the optimiser does not train {missing[0]}, which is pruned; add it, or exclude it"
        )

"""Prune any MindSpore network while it trains, in a loop of your own or in `mindspore.train.Model`.

    pruning = RPG(network, total_steps=epochs * dataset.get_dataset_size(), sparsity=0.98)
    step = pruning.train_step(loss_fn, optimizer)
    Model(step).train(epochs, dataset)      # or: for batch in dataset...: loss = step(*batch)
    pruning.check()

The parts are those of the programs here (pruner, schedule, rank term, training step); docs/library.md has the whole.
"""

import difflib
import warnings
from contextlib import nullcontext
from numbers import Integral, Real

import mindspore as ms
from mindspore import nn
from pydantic import ValidationError

from .platform.errors import InputError
from .platform.files import writing
from .platform.parallel import digest_of, joined_workers
from .pruning.allocation import Allocation
from .pruning.layers import LayerChoice, pattern_of
from .pruning.methods import METHODS, build_schedule
from .pruning.pruner import Pruner, transposed_groups
from .pruning.settings import PruningSettings, apply_method, complete
from .report.page import open_report_folder, write_report
from .report.run_report import describe_training
from .report.sparsity import format_layers, format_summary, sparsity_report
from .rpg_cell import build_objective
from .training.accumulation import GradientAccumulator
from .training.amp import LossScale, mixed_precision
from .training.batch_norm import synchronise
from .training.ema import WeightAverage
from .training.finite import check_parameters
from .training.history import History
from .training.model_step import PruningStep, kind_of
from .training.sensitivity import SPARSITIES, layer_sensitivity
from .training.state import RunState
from .training.train_step import Extras, Pruning, TaskLoss, TrainStep
from .weights.checkpoint import read_checkpoint, write_checkpoint, write_network
from .weights.own import describe_own

AMP_LEVELS = ("O0", "O2", "O3", "auto")


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
        self._step = self._state = self._average = self._history = None

    def train_step(
        self,
        loss_fn,
        optimizer,
        *,
        amp_level="O0",
        accumulation_steps=1,
        grad_clip=0.0,
        ema_decay=0.0,
        sync_batch_norm=False,
    ):
        """The training step: a Cell of one batch that returns its loss; call it, or give it to `mindspore.train.Model`.

        loss_fn: of (output, label), where the label is the last part of a batch and all before it goes to the network;
        None if the network takes the whole batch and returns its loss. optimizer: of mindspore.nn, over at least the
        pruned weights. Steps are counted from here, or from where `restore` says. Among the workers of a job that has
        been joined by `mindspore.communication.init`, gradients are averaged; call it on all of them.

        amp_level: O2, O3 or auto of `mindspore.amp`: a copy of the network computes in float16 on the same float32
        weights, with dynamic loss scaling; the network itself stays in float32. accumulation_steps: equal parts that a
        batch is computed in, one after the other. grad_clip: norm that all gradients together, masked as they are, are
        cut down to, 0 for none. ema_decay: of a moving average of all parameters, in [0, 1), 0 for
        none; see `averaged`. sync_batch_norm: BatchNorm2d over the images of all workers.
        """
        _check_optimizer(optimizer, self.pruner.weights)
        _check_options(amp_level, accumulation_steps, grad_clip, ema_decay)
        if ms.get_context("mode") != ms.PYNATIVE_MODE:
            raise InputError(
                "RPG: masks are chosen on the host, which graph mode rules out; call "
                "mindspore.set_context(mode=mindspore.PYNATIVE_MODE) first. The step itself is compiled all the same"
            )
        workers = joined_workers()
        if workers.size > 1:
            weights = (parameter.asnumpy() for parameter in self.network.get_parameters())
            workers.check_equal(digest_of(weights), "weights before step 1")
        trained, scale = self.network, None
        if amp_level != "O0":
            trained, scale = mixed_precision(trained, amp_level), LossScale()
        if sync_batch_norm:
            synchronise(trained, workers)
        task = TaskLoss(trained, loss_fn)
        parts = accumulation_steps
        accumulator = GradientAccumulator(optimizer.parameters, parts) if parts > 1 else None
        objective = build_objective(
            self.settings, task, self._rank_weights, transposed_groups(self.network), parts, workers
        )
        pruning = Pruning(self.pruner, objective, self.settings.rank_interval)
        self._average = WeightAverage(self.network, ema_decay) if ema_decay else None
        extras = Extras(scale, accumulator, self._average, float(grad_clip))
        self._step = TrainStep(task, optimizer, pruning, extras, workers)
        self._history = History(self._step, self.pruner, self.settings.update_interval)
        self._state = self._run_state(optimizer, scale, workers)
        self._recipe.update(amp_level=amp_level, ema_decay=float(ema_decay))
        return PruningStep(self.network, optimizer, self._step, self._history)

    def _run_state(self, optimizer, scale, workers):
        """The RunState of network, optimiser, masks, and what the options of the step keep."""
        others = [p for part in (self._step, scale, self._average) if part is not None for p in part.state]
        # What is not trained may differ between workers: BatchNorm's moving averages, and sums of losses.
        own = [p for p in self.network.get_parameters() if not p.requires_grad and p.dtype == ms.float32]
        if self._average is not None:
            own += [average for parameter in own for average in self._average.state_of(parameter)]
        return RunState(self.network, optimizer, self.pruner, others, [*own, *self._step.state], workers)

    def averaged(self):
        """A context in which the network has its averaged weights, to be evaluated and saved; without `ema_decay`, its
        own.
        """
        return nullcontext() if self._average is None else self._average.applied()

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
            state = {"step": self._step.step, "history": self._history.lines, "recipe": self._recipe}
            write_checkpoint(path, arrays, {**progress, **state})

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
        self._history.restart(progress.pop("history", []))
        self._step.watch.forget()
        return progress

    def save_deployable(self, path, image_shape, classes, *, mean=None, std=None, crop=1.0, data_path=""):
        """Write the network as a deployable checkpoint, which `export.py`, `eval.py` and the tools take.

        They build the network by `--network FILE.py:NAME`, a function of no arguments. With `ema_decay` these are the
        averaged weights. The file is replaced in one step; among workers the first one writes.

        image_shape: (channels, height, width) of the one input, float32 (N, *image_shape); classes: their names by
        label, or how many there are; mean, std: per channel, what images of values 0..1 are normalised by, by default
        0 and 1; crop: share of a test picture's shorter side that is seen; data_path: folder of pictures in class
        folders to evaluate with and to calibrate 8 bits by.

        Raises InputError for a network that does not take such images or is not finite, and values that make no sense.
        """
        training = self.network.training
        with self.averaged():
            try:
                check_parameters(self.network.trainable_params(), 0 if self._step is None else self._step.step)
                description = describe_own(
                    self.network.set_train(False), image_shape, classes, mean, std, crop, data_path
                )
                description["config"].update(self.settings.model_dump(), seed=self.pruner.seed)
                description["pruned"] = [weight.name for weight in self.pruner.weights]
                if joined_workers().rank == 0:
                    write_network(path, self.network, description)
            finally:
                self.network.set_train(training)

    def write_report(self, folder, overwrite=False):
        """Write the training so far as a page with pictures, report.html, curves.png and layers.png; returns the paths.

        With `ema_decay`, of the averaged weights. Raises InputError if the folder holds a report, unless `overwrite`.
        """
        open_report_folder(folder, overwrite)
        with self.averaged():
            settings = {key: value for key, value in self._recipe.items() if key not in ("weights", "rank_weights")}
            page = describe_training(settings, [] if self._history is None else self._history.lines, self.report())
        with writing(folder, "write_report"):
            return write_report(folder, page)

    def sensitivity(self, score, sparsities=SPARSITIES):
        """What the network scores after pruning each layer alone; it then has its weights again.

        score: function without arguments that evaluates the network; see `layer_sensitivity`, whose dict it returns.
        """
        return layer_sensitivity(self.pruner.weights, score, sparsities)

    def _require_step(self, what):
        if self._step is None:
            raise InputError(f"RPG: {what} needs the optimiser; call train_step first")


def _check_options(amp_level, accumulation_steps, grad_clip, ema_decay):
    """Raise InputError unless the options of a training step are what they have to be."""
    if amp_level not in AMP_LEVELS:
        raise InputError(f"train_step: amp_level: one of {', '.join(AMP_LEVELS)}, not {amp_level!r}")
    if not isinstance(accumulation_steps, Integral) or accumulation_steps < 1:
        raise InputError(f"train_step: accumulation_steps: a whole number of at least 1, not {accumulation_steps!r}")
    if not isinstance(grad_clip, Real) or not 0 <= grad_clip < float("inf"):
        raise InputError(f"train_step: grad_clip: a number of at least 0, not {grad_clip!r}")
    if not isinstance(ema_decay, Real) or not 0 <= ema_decay < 1:
        raise InputError(f"train_step: ema_decay: at least 0 and below 1, not {ema_decay!r}")


_DEFAULTS = {key: field.default for key, field in PruningSettings.model_fields.items()}


def _check_training(network, total_steps):
    """Raise InputError unless it is a network, and a number of batches."""
    if not isinstance(network, nn.Cell):
        raise InputError(f"RPG: network: a Cell of mindspore.nn, not {kind_of(network)}")
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

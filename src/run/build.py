"""The parts of a run, built from its configuration: network, data, schedule, pruner, optimiser, step."""

from pathlib import Path
from typing import Any, NamedTuple, Optional

import mindspore as ms
import numpy as np
from mindspore import nn

from ..config.keys import evaluation_batch
from ..data import describe, has_test
from ..data.batches import Batches, Batching, Source, published_steps
from ..data.folder import format_skipped
from ..data.info import DataInfo
from ..data.sharding import Shard
from ..models import build_model
from ..models.mindcv_networks import parse_arguments, with_image_size
from ..platform.errors import InputError, tell
from ..platform.parallel import SINGLE, digest_of, local_batch_size
from ..platform.schema import shown
from ..pruning.allocation import SAFE, Allocation
from ..pruning.layers import LayerChoice, depthwise_densities, pattern_of
from ..pruning.methods import METHODS, build_schedule
from ..pruning.pruner import Pruner, transposed_groups
from ..pruning.schedule import PruningSchedule
from ..rpg_cell import build_objective
from ..training.accumulation import GradientAccumulator
from ..training.amp import LossScale, mixed_precision
from ..training.batch_norm import synchronise
from ..training.distillation import Distillation
from ..training.ema import WeightAverage
from ..training.optimizer import build_optimizer, learning_rates
from ..training.train_step import Extras, Pruning, TaskLoss, TrainStep
from ..weights.pretrained import load_pretrained
from ..weights.trained import load_trained
from .extension import continued
from .identity import TEACHER

MOST_STEPS = 10**7  # the optimiser's table holds the learning rate of each


class Data(NamedTuple):
    """The splits in batches, and how many batches of training images an epoch has.

    val: training images held out to choose the best network by; None without val_fraction, and where those held out
    are the test data; info: what the network needs to know of the images; splits: the Batches of all.
    """

    train: Any
    val: Any
    test: Any
    steps_per_epoch: int
    info: DataInfo
    splits: tuple = ()

    @property
    def scored(self):
        """The split that every epoch is scored on, and the best network chosen by."""
        return self.test if self.val is None else self.val

    def content(self):
        """What the data set holds, in words and digits that another run or worker can compare; reads no file."""
        return {key: text for split in self.splits for key, text in split.content().items()}


class Parts(NamedTuple):
    """Everything one run consists of; config: with what a run that goes on brings."""

    config: Any
    network: nn.Cell
    data: Data
    total_steps: int
    schedule: Optional[PruningSchedule]  # None for dense training, like the pruner
    pruner: Optional[Pruner]
    rates: list  # learning rate of every step
    optimizer: nn.Optimizer
    scale: Optional[LossScale]  # None in float32
    average: Optional[WeightAverage]  # None without ema_decay
    step: TrainStep

    def content(self):
        """What a run learns from: its data's content, and a digest of the teacher's weights if it has one."""
        distillation = self.step.task.distillation
        if distillation is None:
            return self.data.content()
        weights = (parameter.asnumpy() for parameter in distillation.teacher.get_parameters())
        return {**self.data.content(), TEACHER: digest_of(weights).hex()[:12]}


def build_parts(config, workers=SINGLE):
    """The parts of a configuration's run, for this process among `workers`.

    Raises InputError where the configuration does not fit data, schedule or workers.
    """
    config = continued(config)
    local_batch = local_batch_size(config.batch_size, workers.size, config.accumulation_steps)
    info = describe(config)
    if info.skipped and workers.rank == 0:
        tell("warning", f"left out: {format_skipped(info)}")
    ms.set_seed(config.seed)
    network = build_model(**describe_model(config, info))
    network.set_train(True)
    # A plan needs no weights (one named on the command line is there: see `load_config`); a resumed run brings its own.
    if config.pretrained and not config.resume_ckpt and (Path(config.pretrained).exists() or not config.dry_run):
        remark = load_pretrained(network, config.pretrained)
        if remark and workers.rank == 0:
            tell("pretrained", remark)
    try:
        data = open_data(config, info, local_batch, workers)
        total_steps = config.epoch_size * data.steps_per_epoch
        if total_steps > MOST_STEPS:
            raise InputError(f"epoch_size: {total_steps:,} steps are too many; {MOST_STEPS:,} are possible")
        schedule = build_schedule(config, (config.pruning_epochs or config.epoch_size) * data.steps_per_epoch)
        pruner = build_pruner(config, network, schedule)
    except ValueError as error:
        raise InputError(str(error)) from None
    rates = learning_rates(config.lr, total_steps, int(config.warmup_epochs * data.steps_per_epoch))
    optimizer = build_optimizer(network, rates, config.momentum, config.nesterov, config.weight_decay, config.optimizer)
    scale = None if config.amp_level == "O0" else LossScale()
    average = WeightAverage(network, config.ema_decay) if config.ema_decay else None
    distillation = build_distillation(config, info)
    step = build_step(config, network, optimizer, pruner, distillation, scale, average, workers)
    return Parts(config, network, data, total_steps, schedule, pruner, rates, optimizer, scale, average, step)


def describe_model(config, info):
    """What `build_model` needs to build the network for data again; it travels inside every checkpoint."""
    arguments = with_image_size(config.model, parse_arguments(config.model_args), info.image_shape)
    return {
        "name": config.model,
        "num_classes": info.num_classes,
        "in_channels": info.image_shape[0],
        "width_factor": config.width_factor,
        **({"arguments": arguments} if arguments else {}),
    }


def open_data(config, info, local_batch, workers):
    """All splits in batches, of `local_batch` images in training.

    A plan made without data_path goes by the published sizes.
    """
    fraction = config.val_fraction
    if config.dry_run and not config.data_path:
        return Data(None, None, None, published_steps(config.dataset, config.batch_size, fraction), info)
    source = Source(config.dataset, config.data_path, config.seed, fraction, info=info)
    shard = Shard(workers.size, workers.rank)
    evaluated = Batching(evaluation_batch(config, workers.size), config.num_workers)
    batching = Batching(local_batch, config.num_workers, config.mixup, config.cutmix, config.rand_augment)
    train = Batches(source, "train", batching, shard)
    apart = fraction and has_test(config.dataset, config.data_path)
    val = Batches(source, "val", evaluated, shard) if apart else None
    test = Batches(source, "test", evaluated, shard)
    splits = tuple(split for split in (train, val, test) if split)
    return Data(train, val and val.epoch(), test.epoch(), train.steps, info, splits)


def build_pruner(config, network, schedule):
    """The pruner of the convolutions and dense layers that are not excluded, or None without a schedule.

    Depthwise convolutions have densities of their own, but with a pattern, or the distribution that gives all layers
    the same.
    """
    if schedule is None:
        return None
    weights = LayerChoice.of(config).weights(network)
    patterned = pattern_of(config, network, weights)
    floor, alike = config.min_layer_density, config.distribution == "uniform" or patterned
    own = {} if alike else depthwise_densities(network, weights, schedule.density, 0.0 if floor == SAFE else floor)
    allocation = Allocation(config.distribution, floor, own)
    return Pruner(weights, schedule, allocation, METHODS[config.method]["growth"], config.seed, patterned)


def build_distillation(config, info):
    """What the teacher adds to the loss, or None without one. Raises InputError where it knows other images."""
    if not config.teacher or (config.dry_run and not Path(config.teacher).exists()):
        return None
    teacher = load_trained(config.teacher)
    for what in ("image_shape", "num_classes", "classes", "mean", "std"):
        own, its = getattr(info, what), getattr(teacher.data, what)
        if own and its and not np.array_equal(own, its):
            raise InputError(f"teacher: {config.teacher} knows other data: {what} is {shown(its)}, here {shown(own)}")
    return Distillation(teacher.network, config.teacher_weight, config.temperature)


def rank_weights(config, network):
    """The weights that the rank term is taken of. Raises InputError."""
    choice = LayerChoice.of(config)
    return choice.rank_weights(network, choice.weights(network)) if config.rank_weight else []


def build_step(config, network, optimizer, pruner, distillation, scale, average, workers):
    """The training step: task loss, rank term, mixed precision and accumulation as configured."""
    trained, parts = network, config.accumulation_steps
    if scale is not None:
        trained = mixed_precision(network, config.amp_level)
    if config.sync_batch_norm:
        synchronise(trained, workers)
    task = TaskLoss(trained, nn.CrossEntropyLoss(label_smoothing=config.label_smoothing), distillation)
    objective = build_objective(config, task, rank_weights(config, network), transposed_groups(network), parts, workers)
    accumulator = GradientAccumulator(optimizer.parameters, parts) if parts > 1 else None
    extras = Extras(scale, accumulator, average, config.grad_clip, config.hyperbolic_step)
    return TrainStep(task, optimizer, Pruning(pruner, objective, config.rank_interval), extras, workers)

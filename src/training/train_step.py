"""One step of training: the compiled plain step, and what takes its place when masks or ranks are due."""

from typing import NamedTuple, Optional

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from ..platform.parallel import SINGLE, digest_of
from ..pruning.pruner import Pruner
from ..rpg_cell import RPGWithLossCell
from .accumulation import GradientAccumulator
from .amp import LossScale, is_finite, value_and_grad
from .clipping import clip_by_global_norm
from .ema import WeightAverage
from .finite import FiniteWatch
from .hyperbolic import hyperbolic_step

_multiply = ops.MultitypeFuncGraph("multiply_gradient_by_mask")


@_multiply.register("Tensor", "Tensor")
def _multiply_tensors(gradient, mask):
    return gradient * mask


def optimizer_state(optimizer, parameter):
    """The optimiser's state Parameters of one trained parameter, named `<state>.<parameter name>`."""
    trained = {id(other) for other in optimizer.parameters}
    return [
        state
        for state in optimizer.get_parameters()
        if id(state) not in trained and state.name.partition(".")[2] == parameter.name
    ]


def _scalar(value, name):
    return Parameter(Tensor(value, ms.float32), name=name, requires_grad=False)


def _unasked(gradients):
    """In float32, where no step is skipped, nobody asks for an overflow."""
    return True


class TaskLoss(nn.Cell):
    """Network and loss function as one cell of a batch, compiled to a graph.

    A batch is (images, labels), or more inputs before the labels; without a loss function (None) the network takes the
    whole batch and returns its loss. distillation: Distillation, or None to learn from the labels alone.
    """

    def __init__(self, network, loss_fn, distillation=None):
        super().__init__(auto_prefix=False)
        self.network = network
        self.loss_fn = loss_fn
        self.distillation = distillation

    @ms.jit
    def construct(self, *batch):
        if self.loss_fn is None:
            return self.network(*batch)
        output = self.network(*batch[:-1])
        loss = self.loss_fn(output, batch[-1])
        return loss if self.distillation is None else self.distillation(loss, output, *batch[:-1])


class Pruning(NamedTuple):
    """What pruning adds to a step.

    pruner: Pruner, or None for dense training; objective: RPGWithLossCell of the task, or None to do without the rank
    term; rank_interval: every that many steps the rank term also moves the weights, 0 for never.
    """

    pruner: Optional[Pruner] = None
    objective: Optional[RPGWithLossCell] = None
    rank_interval: int = 0


class Extras(NamedTuple):
    """The optional parts of a step; none of them costs the host anything per step.

    scale: LossScale of mixed precision; accumulator: GradientAccumulator, which splits every batch into its parts;
    average: WeightAverage to keep; clip: what the norm of all gradients together is cut down to, 0 for as it is;
    hyperbolic: alpha of a hyperbolic step behind the optimiser's, 0 for none.
    """

    scale: Optional[LossScale] = None
    accumulator: Optional[GradientAccumulator] = None
    average: Optional[WeightAverage] = None
    clip: float = 0.0
    hyperbolic: float = 0.0


DENSE, PLAIN = Pruning(), Extras()


class TrainStep:
    """Callable of a batch (images, labels) -> loss that trains, prunes and regrows; it counts its own steps from 1.

    task: TaskLoss; optimizer: a MindSpore optimiser over the network's parameters, with the learning rate as a
    schedule inside it; workers: who shares each step's images; gradients are averaged over them before anything is
    done with them.

    Three kinds of step, each compiled once:
      plain   masked gradient of the task, one optimiser step, all in one graph
      ranked  the same with the gradient of task + lambda * rank term
      update  the dense gradient of task + lambda * rank term goes to the pruner; an optimiser step follows only where
              the schedule says so (`trains_at_updates`)

    Every worker decides the same masks from the same averaged gradients; each update compares them all the same, and
    raises RuntimeError on all workers if they differ. Whether a step overflows, on whichever worker, they decide
    together. last_rank_loss, loss_sum and rank_failures are this worker's own.

    A loss or gradient that is not finite is noted on the device; `watch.check()` raises InputError if there was one. A
    mask update, which waits for the device anyway, asks before it changes anything.
    """

    def __init__(self, task, optimizer, pruning=DENSE, extras=PLAIN, workers=SINGLE):
        self.step = 0
        self.task = task
        self.workers = workers
        self.optimizer = optimizer
        self.pruner, objective, rank_interval = pruning
        self.rank_interval = rank_interval if objective is not None else 0
        self.scale, self.accumulator, self.average, self.clip, self.hyperbolic = extras
        self.loss_sum = _scalar(0.0, "loss_sum")
        self.last_update = None
        self.last_rank_loss = None
        self.watch = FiniteWatch(optimizer.parameters, self.scale)
        self._task_gradients = value_and_grad(task, optimizer.parameters, self.scale)
        self._objective_gradients = None
        self.rank_failures = _scalar(0.0, "rank_failures")
        if objective is not None:
            self._objective_gradients = value_and_grad(objective.terms, optimizer.parameters, self.scale, has_aux=True)
            self.rank_failures = objective.rank_term.failures
        self._plain, self._apply, self._train, self._whole, self._accumulate = self._compile()
        if self.pruner is not None:
            position = {parameter.name: index for index, parameter in enumerate(optimizer.parameters)}
            self._pruned = [position[weight.name] for weight in self.pruner.weights]
            self._moments = [self._moments_of(weight) for weight in self.pruner.weights]

    @property
    def state(self):
        """The Parameters of its own that change: sums over an epoch, of this worker."""
        return [self.loss_sum, self.rank_failures]

    def __call__(self, *batch):
        self.step += 1
        if self.pruner is not None and self.pruner.is_update(self.step):
            loss, gradients = self.whole_gradients(*batch)
            self._update(gradients)
            return self._train(loss, *gradients) if self.pruner.schedule.trains_at_updates else self._skip(loss)
        batch = self._last_part(*batch)
        if self.rank_interval and self.step % self.rank_interval == 0:
            loss, gradients = self._dense_gradients(*batch)
            return self._apply(loss, *gradients)
        return self._plain(*batch)

    def whole_gradients(self, *batch):
        """Task loss and dense gradients of the whole objective, means over a batch's parts and the workers.

        A mask update, which they are for, cannot be skipped: on an overflow the loss scale goes down, and they are
        computed again.
        """
        while True:
            loss, gradients = self._dense_gradients(*self._last_part(*batch))
            finite, loss, gradients = self._whole(loss, *gradients)
            if self.scale is None or finite or float(self.scale.scale_value) <= 1:
                return loss, gradients
            self.scale.adjust(Tensor(False))

    def _last_part(self, *batch):
        """Accumulate the gradients of all parts of a batch but the last, and return that one."""
        if self.accumulator is None:
            return batch
        *others, last = zip(*(ops.chunk(tensor, self.accumulator.parts) for tensor in batch))
        for part in others:
            self._accumulate(*part)
        return last

    def _dense_gradients(self, *batch):
        """Task loss, and the gradients of the whole objective over all positions, masked-out ones included."""
        if self._objective_gradients is None:
            return self._task_gradients(*batch)
        (_, task_loss, self.last_rank_loss), gradients = self._objective_gradients(*batch)
        return task_loss, gradients

    def _update(self, gradients):
        """A mask update. Whether an optimiser step follows it or not, the gradients are those of before."""
        self.watch.check()
        self.last_update = self.pruner.update(self.step, [gradients[i] for i in self._pruned], self._moments)
        if self.workers.size > 1:
            self.workers.check_equal(digest_of(map(np.packbits, self.pruner.masks)), f"masks after step {self.step}")

    def _skip(self, loss):
        """In place of an optimiser step: the learning rate moves on all the same."""
        ops.assign_add(self.optimizer.global_step, Tensor([1], ms.int32))
        ops.assign_add(self.loss_sum, loss)
        return loss

    def _moments_of(self, weight):
        """What has to be zero where a weight's mask is: its optimiser state, and its average."""
        return optimizer_state(self.optimizer, weight) + (self.average.state_of(weight) if self.average else [])

    def _masks(self):
        """One factor per optimised parameter: the pruner's mask, or a scalar one."""
        one = _scalar(1.0, "mask.none")
        masks = {weight.name: mask for weight, mask in zip(self.pruner.weights, self.pruner.device_masks)}
        return tuple(masks.get(parameter.name, one) for parameter in self.optimizer.parameters)

    def _compile(self):
        """The compiled pieces of a step: plain step; second half of a ranked step; the same from gradients that are
        means already; means for an update, looked at; accumulation.

        Masked gradients and masked momentum leave a zero weight at zero, weight decay included, so the weights
        themselves need no masking between updates.
        """
        task_gradients, loss_sum = self._task_gradients, self.loss_sum
        accumulator, watch, step = self.accumulator, self.watch, self.optimizer.global_step
        is_sound, train = self._overflow_check(), self._optimize()
        masks = self._masks() if self.pruner is not None else None
        hyper_map = ops.HyperMap()
        reducer = self.workers.gradient_reducer(self.optimizer.parameters)

        def average(loss, gradients):
            if accumulator is not None:
                loss, gradients = accumulator.finish(loss, gradients)
            if reducer is not None:
                gradients = reducer(gradients)
            return loss, gradients

        def finish(loss, gradients):
            if masks is not None:
                gradients = hyper_map(_multiply, gradients, masks)
            finite = is_sound(gradients)
            loss = ops.depend(loss, watch.note(step, loss, gradients, finite))
            loss = ops.depend(loss, train(gradients, finite))
            return ops.depend(loss, ops.assign_add(loss_sum, loss))

        @ms.jit
        def plain(*batch):
            return finish(*average(*task_gradients(*batch)))

        @ms.jit
        def apply(loss, *gradients):
            return finish(*average(loss, gradients))

        @ms.jit
        def train_on(loss, *gradients):
            return finish(loss, gradients)

        @ms.jit  # outside a graph, each call would leave some memory behind
        def whole(loss, *gradients):
            loss, gradients = average(loss, gradients)
            finite = is_sound(gradients)
            return finite, ops.depend(loss, watch.note(step, loss, gradients, finite)), gradients

        @ms.jit
        def accumulate(*batch):
            loss, gradients = task_gradients(*batch)
            return accumulator.add(loss, gradients)

        return plain, apply, train_on, whole, accumulate

    def _overflow_check(self):
        """A function of (gradients) for use in a graph: whether they are finite on every worker.

        They are the same on all workers, but some devices tell an overflow by a register of their own.
        """
        if self.scale is None:
            return _unasked
        agreed = self.workers.agreement()

        def is_sound(gradients):
            return agreed(is_finite(gradients))

        return is_sound

    def _optimize(self):
        """A function of (gradients, whether they are finite) for use in a graph: one optimiser step, and what goes
        with it. What is clipped is what the optimiser gets: masked means over parts and workers, unscaled.
        """
        optimizer, scale, average = self.optimizer, self.scale, self.average
        most, alpha = self.clip, self.hyperbolic

        def train(gradients, finite):
            if most:
                gradients = clip_by_global_norm(gradients, most)
            if alpha:
                rate = optimizer.get_lr()  # of this step: the optimiser counts on
                done = optimizer(ops.depend(gradients, rate))
                done = hyperbolic_step(optimizer, alpha, gradients, rate, done)
            else:
                done = optimizer(gradients)
            if average is not None:
                done = ops.depend(average.update(optimizer.global_step), done)
            return done

        def train_if_finite(gradients, finite):
            done = scale.adjust(finite)
            if finite:
                done = ops.depend(finite, (done, train(gradients, finite)))
            else:  # the step is skipped, but the learning rate moves on
                done = ops.depend(finite, (done, ops.assign_add(optimizer.global_step, Tensor([1], ms.int32))))
            return done

        return train if scale is None else train_if_finite

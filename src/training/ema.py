"""Exponential moving average of a network's weights, kept masked."""

from contextlib import contextmanager

from mindspore import Parameter, ParameterTuple, jit_class, ops

_move = ops.MultitypeFuncGraph("move_average")


@_move.register("Tensor", "Tensor", "Tensor")
def _move_one(rate, average, value):
    return ops.assign(average, average + rate * (value - average))


@jit_class
class WeightAverage:
    """Moving average of all parameters of a network that are no whole numbers, BatchNorm statistics included.

    decay: share of the average that stays at each step; at step t at most (1 + t) / (10 + t), so that the first,
    untrained weights are soon forgotten. A weight that stays at zero keeps its average at zero, so only a mask
    update has to mask the average (see `state_of`).
    """

    def __init__(self, network, decay):
        self.decay = decay
        self.values = ParameterTuple([p for p in network.get_parameters() if p.dtype.is_floating_point])
        self.averages = ParameterTuple(
            [Parameter(p.value().copy(), name=f"average.{p.name}", requires_grad=False) for p in self.values]
        )
        self.map = ops.HyperMap()

    def update(self, step):
        """Move the averages towards the weights; step: Tensor, counted from 1."""
        rate = 1 - ops.minimum(self.decay, (1 + step) / (10 + step))
        return self.map(ops.partial(_move, rate), self.averages, self.values)

    @property
    def state(self):
        """The Parameters that change."""
        return list(self.averages)

    def state_of(self, parameter):
        """The average of one parameter, in a list, to be masked with it."""
        return [self.averages[index] for index, value in enumerate(self.values) if value is parameter]

    @contextmanager
    def applied(self):
        """Inside, the network has the averaged weights."""
        kept = [value.value().copy() for value in self.values]
        self._assign(self.averages)
        try:
            yield
        finally:
            self._assign(kept)

    def _assign(self, sources):
        for value, source in zip(self.values, sources):
            ops.assign(value, source)

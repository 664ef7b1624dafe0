"""Gradient accumulation: the gradient of a large batch from parts that fit the device's memory."""

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, jit_class, ops

_add_to = ops.MultitypeFuncGraph("add_to_sum")
_mean = ops.MultitypeFuncGraph("mean_of_sum")


@_add_to.register("Tensor", "Tensor")
def _add_gradient(total, gradient):
    return ops.assign_add(total, gradient)


@_mean.register("Number", "Tensor", "Tensor")
def _mean_gradient(parts, total, gradient):
    mean = (total + gradient) / parts
    return ops.depend(mean, ops.assign(total, ops.depend(ops.zeros_like(total), mean)))


@jit_class
class GradientAccumulator:
    """Sums of loss and gradients over all parts of a batch but the last; empty between the steps.

    parameters: those the gradients are of; parts: equal parts per batch, at least 2.
    """

    def __init__(self, parameters, parts):
        self.parts = parts
        self.sums = ParameterTuple(
            [Parameter(ops.zeros_like(p), name=f"sum.{p.name}", requires_grad=False) for p in parameters]
        )
        self.loss = Parameter(Tensor(0.0, ms.float32), name="sum.loss", requires_grad=False)
        self.map = ops.HyperMap()

    def add(self, loss, gradients):
        """Add one part; returns its loss."""
        done = self.map(_add_to, self.sums, gradients)
        return ops.depend(loss, (done, ops.assign_add(self.loss, loss)))

    def finish(self, loss, gradients):
        """Means of loss and gradients over all parts, the last of which is given; empties the sums."""
        means = self.map(ops.partial(_mean, self.parts), self.sums, gradients)
        mean = (self.loss + loss) / self.parts
        mean = ops.depend(mean, ops.assign(self.loss, ops.depend(ops.zeros_like(mean), mean)))
        return mean, means

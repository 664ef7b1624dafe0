"""The hyperbolic step behind a step of any optimiser (HAM: Jacobs et al., arXiv 2506.02630)."""

from mindspore import ops

_bend = ops.MultitypeFuncGraph("bend")


@_bend.register("Tensor", "Tensor", "Tensor")
def _bend_one(rate, parameter, gradient):
    if parameter.ndim < 2:  # BatchNorm and biases
        return parameter
    return ops.assign(parameter, parameter * ops.exp(-rate * ops.sign(parameter) * gradient))


def hyperbolic_step(optimizer, alpha, gradients, rate, done):
    """Multiply the weights by exp(-rate * alpha * sign(weight) * gradient), once `done` is there; for use in a graph.

    gradients: those that the optimiser's step came from, masked; rate: its learning rate, a Tensor. A weight that
    should grow does so by a share of itself, a small one moves little, and a zero stays zero. The factor exp(-rate *
    beta) of the publication is a weight decay, which the optimiser has.
    """
    return ops.HyperMap()(ops.partial(_bend, ops.depend(rate * alpha, done)), optimizer.parameters, gradients)

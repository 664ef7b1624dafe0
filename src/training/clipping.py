"""Clipping of gradients by the norm of all of them together (Pascanu et al., 2013)."""

import mindspore as ms
from mindspore import ops

_square_sum = ops.MultitypeFuncGraph("square_sum")
_scale = ops.MultitypeFuncGraph("scale_gradient")


@_square_sum.register("Tensor")
def _square_sum_of(gradient):
    return ops.square(gradient.astype(ms.float32)).sum()


@_scale.register("Tensor", "Tensor")
def _scale_one(factor, gradient):
    return gradient * factor.astype(gradient.dtype)


def clip_by_global_norm(gradients, most):
    """A tuple of gradients, scaled down together so that the root of the sum of all their squares is at most `most`.

    Those of a smaller norm come back bit for bit. For use in a graph; MindSpore's own function of that name is about to
    be removed.
    """
    hyper_map = ops.HyperMap()
    norm = ops.sqrt(ops.addn(hyper_map(_square_sum, gradients)))
    return hyper_map(ops.partial(_scale, most / ops.maximum(norm, most)), gradients)

"""Distillation: the sparse network learns, beside the label, what a trained network sees in an image.

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015.
"""

from mindspore import nn, ops


class Distillation(nn.Cell):
    """(task loss, logits, *images) -> (1 - weight) * task loss + weight * T^2 * KL(teacher || student), a scalar.

    teacher: network of images -> logits over the same classes, on the last axis; it is put into evaluation mode and
    its parameters are not trained. weight: in [0, 1]; temperature: T > 0, by which both networks' logits are divided.
    The factor T^2 keeps the two gradients of one size whatever the T. The teacher runs once per batch, in the graph of
    the step.
    """

    def __init__(self, teacher, weight, temperature):
        super().__init__(auto_prefix=False)
        teacher.set_train(False)
        for parameter in teacher.get_parameters():
            parameter.requires_grad = False
            parameter.name = f"teacher.{parameter.name}"  # a graph has each name once
        self.teacher = teacher
        self.weight = weight
        self.temperature = temperature

    def construct(self, loss, logits, *images):
        seen = ops.stop_gradient(self.teacher(*images)).astype(logits.dtype)
        taught = ops.log_softmax(seen / self.temperature, -1)
        learnt = ops.log_softmax(logits / self.temperature, -1)
        divergence = (ops.exp(taught) * (taught - learnt)).sum(-1).mean()
        return (1 - self.weight) * loss + self.weight * self.temperature**2 * divergence

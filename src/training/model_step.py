"""A training step in the form that `mindspore.train.Model` and its callbacks know."""

import numpy as np
from mindspore import nn

from ..platform.errors import InputError


class PruningStep(nn.Cell):
    """A TrainStep in the form that `mindspore.train.Model` and its callbacks know: a Cell of a batch -> loss."""

    def __init__(self, network, optimizer, inner, history):
        super().__init__(auto_prefix=False)
        self.network = network
        self.optimizer = optimizer
        self.inner = inner
        self.history = history

    def construct(self, *batch):
        parts = 1 if self.inner.accumulator is None else self.inner.accumulator.parts
        for position, part in enumerate(batch, start=1):
            if isinstance(part, np.ndarray):
                raise InputError(
                    f"training step: part {position} of the batch is {kind_of(part)}; give a mindspore.Tensor, as in "
                    "mindspore.Tensor(part)"
                )
            if parts > 1 and part.shape[0] % parts:
                raise InputError(
                    f"training step: a batch of {part.shape[0]} does not divide into accumulation_steps {parts} equal "
                    "parts; give others, and leave the last, smaller batch out (drop_remainder=True)"
                )
        if not self.network.training:  # an evaluation in between leaves it so
            self.network.set_train()
        loss = self.inner(*batch)
        self.history.note()
        return loss


def kind_of(value):
    """The name of a value's type, with its module."""
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"

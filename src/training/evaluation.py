"""Top-1, top-5 and loss of a network over a data set, each image counted once."""

from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from ..data.batches import iterate
from ..platform.parallel import SINGLE

PADDING = -1  # label of the images that only fill the last batch


class Scores(NamedTuple):
    """top1, top5: per cent; loss: mean cross-entropy without label smoothing; images: how many were counted."""

    top1: float
    top5: float
    loss: float
    images: int


class Evaluator:
    """Callable of a data set -> Scores. The network is compiled once; the last batch is padded to the full size.

    Among several workers each gives its own part of the images, in batches of its own `batch_size`, and all get the
    scores of the whole.

    stop: asked before each batch; if it says True, the evaluation is broken off and gives None.
    """

    def __init__(self, network, batch_size, workers=SINGLE, stop=lambda: False):
        self.stop = stop
        self.workers = workers
        self.network = network
        self.batch_size = batch_size
        self.count = self._compile()

    def __call__(self, dataset):
        self.network.set_train(False)
        try:
            totals = np.zeros(4)
            for batch in iterate(dataset.create_tuple_iterator(num_epochs=1, output_numpy=True)):
                if self.stop():
                    return None
                totals += [*(float(total) for total in self.count(*self._pad(*batch))), len(batch[1])]
        finally:
            self.network.set_train(True)
        top1, top5, loss, images = self.workers.sum(totals).tolist()
        return Scores(100 * (top1 / images), 100 * (top5 / images), loss / images, int(images))

    def _pad(self, images, labels):
        missing = self.batch_size - len(labels)
        images = np.pad(images, [(0, missing)] + [(0, 0)] * (images.ndim - 1))
        return Tensor(images), Tensor(np.pad(labels, (0, missing), constant_values=PADDING))

    def _compile(self):
        network = self.network

        @ms.jit
        def count(images, labels):
            logits = network(images).astype(ms.float32)
            counted = (labels != PADDING).astype(ms.float32)
            true = logits.gather_elements(1, ops.maximum(labels, 0).astype(ms.int32).expand_dims(1))
            # Ties count against the network, and so does NaN: it compares false even to itself and leaves -1.
            better = (logits >= true).astype(ms.float32).sum(1) - 1
            top1 = ops.logical_and(better >= 0, better < 1).astype(ms.float32) * counted
            top5 = ops.logical_and(better >= 0, better < 5).astype(ms.float32) * counted
            losses = (ops.logsumexp(logits, (1,)) - true.squeeze(1)) * counted
            return top1.sum(), top5.sum(), losses.sum()

        return count

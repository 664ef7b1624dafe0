"""The state of a run: what each worker has of its own, and what a run with other workers makes of it."""

import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from src.resume import RunState


class Workers:
    """Stands for worker `rank` of several, whose own values are 10 apart."""

    def __init__(self, rank, size):
        self.rank, self.size = rank, size

    def gather(self, array):
        return np.stack([array + 10 * (rank - self.rank) for rank in range(self.size)])


def build(workers):
    """State and moving averages of a network that has BatchNorm."""
    network = nn.SequentialCell(nn.Dense(2, 3), nn.BatchNorm1d(3))
    own = [parameter for parameter in network.get_parameters() if not parameter.requires_grad]
    optimizer = nn.Momentum(network.trainable_params(), 0.1, 0.9)
    return RunState(network, optimizer, None, own=own, workers=workers), own


def saved_by(size):
    """The arrays that worker 0 of `size` writes; worker r has the averages 10 r and 10 r + 1."""
    state, own = build(Workers(0, size))
    for number, parameter in enumerate(own):
        ops.assign(parameter, Tensor(np.full(3, number, np.float32)))
    arrays = state.arrays()
    return {name: array if isinstance(array, np.ndarray) else array.asnumpy() for name, array in arrays.items()}


@pytest.mark.parametrize(
    ("saved", "resumed", "expected"),
    [
        (2, (0, 2), 0),
        (2, (1, 2), 10),
        (3, (2, 3), 20),
        (2, (0, 1), 5),  # another number of workers: the mean
        (3, (1, 2), 10),
        (1, (1, 2), 0),  # one process: what it had
    ],
)
def test_every_worker_gets_its_own_averages_back(saved, resumed, expected):
    state, own = build(Workers(*resumed))
    arrays = saved_by(saved)
    assert ("workers.own" in arrays) == (saved > 1)
    state.load(arrays, "x")
    assert [parameter.asnumpy().tolist() for parameter in own] == [[expected] * 3, [expected + 1] * 3]
    assert all(name in arrays for name in state.named)

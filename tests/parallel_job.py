"""What test_parallel.py runs, once alone and once as two workers: python tests/parallel_job.py FOLDER

Trains a small network, without BatchNorm and with it, on fixed images, of which each worker takes its slice. Writes
to FOLDER, for worker R of N: what it saw (N_R.json), its weights and masks at the end (N_R.npz), and a checkpoint from
the middle of the run (N.ckpt). If FOLDER holds the checkpoint of a run of one process, two workers continue it too.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import src  # noqa: F401,I001  sets the environment before mindspore loads

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from src import parallel
from src.batch_norm import synchronise
from src.checkpoint import write_checkpoint
from src.device import select_device
from src.evaluation import Evaluator
from src.library import RPG
from src.optimizer import build_optimizer, learning_rates
from src.resume import RunState, read_run

STEPS, INTERVAL, MIDDLE, BATCH = 24, 4, 14, 8


class Net(nn.Cell):
    """Three convolutions and a dense layer; with BatchNorm behind two branches that are added up, if wanted."""

    def __init__(self, norm):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, pad_mode="pad", padding=1)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, pad_mode="pad", padding=1, has_bias=True)
        self.conv3 = nn.Conv2d(16, 16, 1)
        self.norm2 = nn.BatchNorm2d(16) if norm else nn.Identity()
        self.norm3 = nn.BatchNorm2d(16) if norm else nn.Identity()
        self.dense = nn.Dense(16, 4)

    def construct(self, x):
        x = ops.relu(self.conv2(ops.relu(self.conv1(x))))
        x = self.norm2(x) + self.norm3(self.conv3(x))
        return self.dense(ops.relu(x).mean((2, 3)))


class Run:
    """A small network with everything that trains it."""

    def __init__(self, workers, norm=False):
        ms.set_seed(1)
        self.workers = workers
        self.network = Net(norm).set_train()
        synchronise(self.network, workers)
        self.optimizer = build_optimizer(self.network, learning_rates(0.1, STEPS, 4), 0.9, False, 1e-2)
        rpg = RPG(
            self.network,
            STEPS,
            sparsity=0.9,
            update_interval=INTERVAL,
            prune_window=0.8,
            update_end=0.85,
            rank_weight=5.0,
            tail_energy=0.2,
            rank_interval=3,
        )
        self.pruner = rpg.pruner
        self.step = rpg.train_step(nn.CrossEntropyLoss(), self.optimizer).inner  # knows by itself of the workers
        self.state = RunState(self.network, self.optimizer, self.pruner)
        self.masks, self.rank_losses = {}, {}

    def train(self, last):
        """Train up to step `last`, on this worker's slice of each step's images."""
        for images, labels in batches()[self.step.step : last]:
            mine = slice(self.workers.rank, None, self.workers.size)
            self.step(Tensor(images[mine]), Tensor(labels[mine]))
            if self.pruner.is_update(self.step.step):
                self.masks[self.step.step] = parallel.digest_of(self.pruner.masks).hex()
            if self.step.last_rank_loss is not None:
                own = np.float32(float(self.step.last_rank_loss))
                self.rank_losses[self.step.step] = float(self.workers.mean([own])[0])

    def save(self, path):
        """Write the checkpoint of a run."""
        write_checkpoint(path, self.state.arrays(), {"step": self.step.step})

    def restore(self, path):
        """Continue from a checkpoint."""
        arrays, progress, _ = read_run(path)
        self.state.load(arrays, path)
        self.step.step = progress["step"]

    def arrays(self):
        """Weights and masks by name."""
        weights = {parameter.name: parameter.asnumpy() for parameter in self.network.get_parameters()}
        masks = {f"mask.{weight.name}": mask for weight, mask in zip(self.pruner.weights, self.pruner.masks)}
        return {**weights, **masks}


def batches():
    """The images and labels of every step."""
    random = np.random.default_rng(0)
    return [
        (random.standard_normal((BATCH, 1, 6, 6)).astype(np.float32), random.integers(0, 4, BATCH).astype(np.int32))
        for _ in range(STEPS)
    ]


def evaluate(workers, network, images):
    """Scores over the first `images` images; each worker reads its own part, in batches of two."""
    from mindspore import dataset

    data, labels = (np.concatenate(parts)[:images] for parts in zip(*batches()))
    mine = slice(workers.rank, None, workers.size)
    source = dataset.NumpySlicesDataset((data[mine], labels[mine]), ["image", "label"], shuffle=False)
    return Evaluator(network, 2, workers)(source.batch(2))


def message_of(call, *arguments):
    """The message of the RuntimeError that a call raises, or None."""
    try:
        call(*arguments)
    except RuntimeError as error:
        return str(error)
    return None


def check_communication(workers):
    """What the basic operations give, for the test to judge."""
    rank = workers.rank

    @ms.jit
    def reduce(*gradients):
        return reducer(gradients)

    arrays = [
        np.full((3, 2), 1.0 + rank, np.float32),
        np.float32([10 * rank]),
        np.full((2, 1, 2), -rank, np.float32),
    ]
    reducer = workers.gradient_reducer([Parameter(Tensor(array), name=f"p{i}") for i, array in enumerate(arrays)])
    return {
        "reduced": [gradient.asnumpy().tolist() for gradient in reduce(*map(Tensor, arrays))],
        "mean": [array.tolist() for array in workers.mean(arrays)],
        "sum": workers.sum([1, rank]).tolist(),
        "equal": message_of(workers.check_equal, parallel.digest_of(arrays[:0]), "nothing"),
        "unequal": message_of(workers.check_equal, parallel.digest_of(arrays), "gradients"),
    }


def check_divergence(workers):
    """The message when worker 1 has lost a weight that worker 0 still has."""
    run = Run(workers)
    run.train(INTERVAL)
    if workers.rank == 1:
        masks = [mask.copy() for mask in run.pruner.masks]
        masks[0].flat[np.flatnonzero(masks[0])[:40]] = False
        run.pruner.load_masks(masks)
    return message_of(run.train, 2 * INTERVAL)


def main():
    """Run everything and write what it gave."""
    folder = Path(sys.argv[1])
    select_device("CPU")
    workers = parallel.start()
    run = Run(workers)
    run.train(MIDDLE)
    if workers.rank == 0:
        run.save(folder / f"{workers.size}.ckpt")
    run.train(STEPS)
    normed = Run(workers, norm=True)
    normed.train(STEPS)
    seen = {"masks": run.masks, "rank_losses": run.rank_losses, "normed_masks": normed.masks}
    seen["scores"] = {images: evaluate(workers, run.network, images)._asdict() for images in (7, 9, 16)}
    arrays = run.arrays()
    arrays.update({f"normed.{name}": array for name, array in normed.arrays().items()})
    if workers.size > 1:
        seen["communication"] = check_communication(workers)
        seen["divergence"] = check_divergence(workers)
        continued = Run(workers)
        continued.restore(folder / "1.ckpt")
        continued.train(STEPS)
        seen["continued_masks"] = continued.masks
        arrays.update({f"continued.{name}": array for name, array in continued.arrays().items()})
    name = f"{workers.size}_{workers.rank}"
    np.savez(folder / f"{name}.npz", **arrays)
    (folder / f"{name}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main()

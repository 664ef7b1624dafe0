"""What test_parallel.py runs, once alone and once as two workers: python tests/parallel_job.py FOLDER

Trains a small network, without BatchNorm and with it, on fixed images, of which each worker takes its slice. Writes
to FOLDER, for worker R of N: what it saw (N_R.json), its weights and masks at the end (N_R.npz), and a checkpoint from
the middle of the run (N.ckpt). If FOLDER holds the checkpoint of a run of one process, two workers continue it too;
and they train the digits: once while one of them reports overflows, once until one of them has other weights.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import src  # noqa: F401,I001  sets the environment before mindspore loads

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from tiny_train import Tiny

from src.platform import parallel
from src.training import train_step
from src.training.amp import is_finite
from src.weights.checkpoint import write_checkpoint
from src.config.keys import resolve
from src.platform.device import select_device
from src.training.evaluation import Evaluator
from src.library import RPG
from src.models import MODELS
from src.training.optimizer import build_optimizer, learning_rates
from src.run.resume import read_run
from src.training.state import RunState
from src.run.trainer import Trainer

STEPS, INTERVAL, MIDDLE, BATCH = 24, 4, 14, 8
OVERFLOWS = {3: 1, 5: 1, 8: 2}  # step: how often its gradients overflow; masks are updated at 4 and 8


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

    def __init__(self, workers, norm=False, **target):
        ms.set_seed(1)
        self.workers = workers
        self.network = Net(norm).set_train()
        self.optimizer = build_optimizer(self.network, learning_rates(0.1, STEPS, 4), 0.9, False, 1e-2)
        rpg = RPG(
            self.network,
            STEPS,
            **(target or {"sparsity": 0.9}),
            update_interval=INTERVAL,
            prune_window=0.8,
            update_end=0.85,
            rank_weight=5.0,
            tail_energy=0.2,
            rank_interval=3,
        )
        self.rpg, self.pruner = rpg, rpg.pruner
        step = rpg.train_step(nn.CrossEntropyLoss(), self.optimizer, sync_batch_norm=True)
        self.step = step.inner  # knows by itself of the workers
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


def check_divergence(workers, path):
    """The messages of a save when worker 1 has other weights than worker 0, and of a mask update when it lacks some."""
    run = Run(workers)
    run.train(INTERVAL)
    if workers.rank == 1:
        ops.assign(run.network.dense.weight, run.network.dense.weight * 1.001)
    saving = message_of(run.rpg.save, path)
    if workers.rank == 1:
        masks = [mask.copy() for mask in run.pruner.masks]
        masks[0].flat[np.flatnonzero(masks[0])[:40]] = False
        run.pruner.load_masks(masks)
    return [saving, message_of(run.train, 2 * INTERVAL)]


def tiny_trainer(workers, folder, **settings):
    """A run of eleven steps of the tiny network on the digits."""
    MODELS["resnet20"] = Tiny
    recipe = {"batch_size": 128, "update_interval": 4, "epoch_size": 1, "warmup_epochs": 0, "save_minutes": 0}
    return Trainer(resolve({**recipe, **settings, "output_path": str(folder)}), workers)


def digest_of_weights(trainer):
    """One digest of all trained weights, as text."""
    return parallel.digest_of(parameter.asnumpy() for parameter in trainer.network.trainable_params()).hex()


def check_overflow(workers, folder):
    """What every step leaves behind where only the last worker's device reports overflows, as by a register of its own;
    and the moving averages before and after workers put them together.
    """
    pending = Parameter(Tensor(0, ms.int32), name="pending", requires_grad=False)

    def reported(gradients):
        return ops.logical_and(is_finite(gradients), ops.assign_sub(pending, 1) < 0)

    if workers.rank == workers.size - 1:
        train_step.is_finite = reported
    trainer = tiny_trainer(workers, folder, amp_level="O2", sync_batch_norm=False)
    steps = []
    for images, labels in trainer._rest_of_epoch():
        ops.assign(pending, Tensor(OVERFLOWS.get(trainer.step.step + 1, 0), ms.int32))
        trainer.step(images, labels)
        scale = float(trainer.parts.scale.scale_value)
        steps.append([scale, digest_of_weights(trainer), parallel.digest_of(trainer.pruner.masks).hex()])
    train_step.is_finite = is_finite
    trainer.saver.check_sound()
    before = [parameter.asnumpy().tolist() for parameter in trainer.statistics]
    trainer._average_statistics()
    after = [parameter.asnumpy().tolist() for parameter in trainer.statistics]
    return {"steps": steps, "before": before, "after": after}


def check_weights(workers, folder):
    """The messages at the end of an epoch, and of a save, when worker 1 has other weights since the fifth step."""
    trainer = tiny_trainer(workers, folder, method="dense")
    after = trainer._after_step

    def spoil(loss, bar):
        after(loss, bar)
        if trainer.step.step == 5 and workers.rank == 1:
            weight = trainer.network.conv2.weight
            ops.assign(weight, weight * 1.001)

    trainer._after_step = spoil
    return [message_of(trainer.run), message_of(trainer.saver.save)]


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
    patterned = Run(workers, pattern="2:4")
    patterned.train(STEPS)
    seen = {"masks": run.masks, "rank_losses": run.rank_losses}
    seen.update({"normed_masks": normed.masks, "patterned_masks": patterned.masks})
    seen["scores"] = {images: evaluate(workers, run.network, images)._asdict() for images in (7, 9, 16)}
    arrays = run.arrays()
    arrays.update({f"normed.{name}": array for name, array in normed.arrays().items()})
    if workers.size > 1:
        seen["communication"] = check_communication(workers)
        seen["divergence"] = check_divergence(workers, folder / "rpg.ckpt")
        seen["overflow"] = check_overflow(workers, folder / "overflow")
        seen["weights"] = check_weights(workers, folder / "weights")
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

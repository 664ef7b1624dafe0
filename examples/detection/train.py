"""Train YOLOv8 and prune it: python examples/detection/train.py [--config_path FILE] [--key value ...]"""

import json
import sys
import time
from pathlib import Path
from signal import SIGTERM

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src import RPG, select_device
from src.platform import parallel
from src.platform.errors import InputError, run_program
from src.platform.files import append_line, replace_file, writing
from src.platform.lock import FolderLock
from src.platform.stopping import Stopped, StopSignals

import mindspore as ms  # isort: skip  after src, which sets its environment
import numpy as np
from mindspore import Tensor, nn

from examples.detection.coco import read_coco
from examples.detection.networks import DENSE_LAYERS, TrainingNetwork, build_network, load_pretrained, write_detector
from examples.detection.samples import Samples
from examples.detection.scoring import format_score, score
from examples.detection.settings import load_settings

RUN_FILES = ("resume.ckpt", "network.ckpt", "metrics.jsonl", "result.json")


def main():
    """Train by the configuration on the command line."""
    settings = load_settings()
    select_device(settings.device_target)
    workers = parallel.start()
    folder = Path(settings.output_path)
    lock = open_folder(folder, settings) if workers.rank == 0 else None
    run = Run(settings, folder, workers)
    if lock and settings.overwrite:  # not before all that was given has proved to be of use
        for name in RUN_FILES:
            (folder / name).unlink(missing_ok=True)
    result = run.train()
    if lock:
        lock.release()
        print(run.pruning.table())
        print(f"{format_score(result['score'])}, {result['seconds']:.0f} s, in {folder}")


def open_folder(folder, settings):
    """Make the output folder, and keep others from writing there. Raises InputError if it holds a run already."""
    with writing(folder, "output_path"):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(folder, "output_path")
    if any((folder / name).exists() for name in RUN_FILES) and not (settings.resume or settings.overwrite):
        raise InputError(
            f"output_path: {folder} already holds a run; continue it with --resume, replace it with --overwrite, or "
            "choose another --output_path"
        )
    return lock


class Run:
    """A training run; the same for any number of workers, each of which has one. Worker 0 writes the files."""

    def __init__(self, settings, folder, workers):
        self.settings, self.folder, self.workers = settings, folder, workers
        data = Path(settings.data_path)
        self.annotations = data / settings.val_annotations
        masks = settings.task == "segment"
        coco = read_coco(data / settings.train_annotations, data / settings.train_images, masks)
        self.val = read_coco(self.annotations, data / settings.val_images, masks)
        if self.val.categories != coco.categories:
            raise InputError(f"val_annotations: {self.annotations} has other categories than the training data")
        ms.set_seed(settings.seed)
        self.network = build_network(settings.task, settings.size, len(coco.classes))
        if settings.pretrained and not settings.resume:
            new = load_pretrained(self.network, settings.pretrained)
            if new and workers.rank == 0:
                print(f"{settings.pretrained}: for other classes; {len(new)} parameters begin at random")
        self.samples = Samples(coco.pictures, settings, 0, workers)
        self.rates = learning_rates(settings, self.samples.steps_per_epoch)
        trained = TrainingNetwork(self.network, settings, len(coco.classes))
        self.pruning = RPG(
            trained,
            self.samples.total_steps,
            seed=settings.seed,
            exclude=DENSE_LAYERS[settings.task],
            **settings.pruning(),
        )
        self.step = self.pruning.train_step(
            None,
            build_optimizer(self.network, settings, *self.rates),
            grad_clip=settings.grad_clip,
            ema_decay=settings.ema_decay,
            sync_batch_norm=settings.sync_batch_norm,
        )

    def train(self):
        """Train to the end, score, and write network.ckpt and result.json; returns the result."""
        settings, losses, saved = self.settings, [], time.perf_counter()
        seconds = self._restore() if settings.resume else 0.0
        started = begun = saved - seconds
        with StopSignals() as signals:
            begun = time.perf_counter()
            for step, batch in enumerate(self.samples.batches(), start=self.samples.start + 1):
                losses.append(self.step(*map(Tensor, batch)))
                signals.renew()
                epoch_ends = step % self.samples.steps_per_epoch == 0
                if epoch_ends:
                    self._report(step, losses, time.perf_counter() - begun)
                    losses, begun = [], time.perf_counter()
                due = 0 < 60 * settings.save_minutes < time.perf_counter() - saved
                due, signal = self.workers.any([float(due), float(signals.received)])
                if epoch_ends or due or signal:
                    saved = time.perf_counter()
                    self._save(saved - started)
                if signal:
                    raise Stopped(f"stopped after step {step}; continue with --resume", signals.received or SIGTERM)
        self.pruning.check()
        return self._finish(time.perf_counter() - started)

    def _report(self, step, losses, seconds):
        """One line on the screen and in metrics.jsonl for an epoch."""
        settings, epoch = self.settings, step // self.samples.steps_per_epoch
        line = {
            "epoch": epoch,
            "loss": float(np.mean([float(loss) for loss in losses])) / settings.batch_size,
            "density": self.pruning.density,
            "lr": self.rates[0][step - 1],
            "images_per_second": len(losses) * settings.batch_size / seconds,
        }
        if self.workers.rank == 0:
            append_line(self.folder / "metrics.jsonl", json.dumps(line))
            print(
                f"epoch {epoch:3}/{settings.epochs}  loss {line['loss']:.4f}  density {line['density']:.4f}  "
                f"lr {line['lr']:.5f}  {line['images_per_second']:,.0f} images/s",
                flush=True,
            )

    def _save(self, seconds):
        path = self.folder / "resume.ckpt"
        with writing(path, "output_path"):
            self.pruning.save(path, seconds=seconds, settings=self.settings.training())

    def _restore(self):
        """Go on where resume.ckpt was written; returns the seconds of training before."""
        path = self.folder / "resume.ckpt"
        if not path.exists():
            raise InputError(f"resume: there is no {path}; leave --resume out to begin")
        progress = self.pruning.restore(path)
        before, now = progress.get("settings", {}), self.settings.training()
        for key, value in now.items():
            if before.get(key) != value:
                raise InputError(f"resume: {path} comes from a run with {key} {before.get(key)!r}, not {value!r}")
        self.samples.start = progress["step"]
        return float(progress["seconds"])

    def _finish(self, seconds):
        """Score the averaged network; worker 0 writes what is left."""
        if self.workers.rank:
            return None
        with self.pruning.averaged():
            self.network.set_train(False)
            result = {
                "method": self.settings.method,
                "seed": self.settings.seed,
                "score": score(self.network, self.val, self.annotations, self.settings),
                "sparsity": self.pruning.sparsity,
                "emptied": [layer for layer, mask in self.pruning.masks.items() if not mask.any()],
                "seconds": seconds,
            }
            with writing(self.folder, "output_path"):
                path = self.folder / "network.ckpt"
                weights = self.pruning.pruner.weights
                write_detector(path, self.network, self.settings, self.val.classes, self.val.categories, weights)
                replace_file(self.folder / "result.json", [json.dumps(result, indent=1).encode()])
        return result


def learning_rates(settings, steps_per_epoch):
    """The learning rate of every step of weights, and of biases, as YOLOv8 has it: a warm-up, then a straight line."""
    total = settings.epochs * steps_per_epoch
    steps = np.arange(total)
    line = settings.lr * (1 + (settings.final_lr - 1) * steps / max(1, total - 1))
    share = np.minimum(1, steps / max(1.0, settings.warmup_epochs * steps_per_epoch))
    return (share * line).tolist(), (share * line + (1 - share) * settings.warmup_bias_lr).tolist()


def build_optimizer(network, settings, rates, bias_rates):
    """The optimiser, with decay on the convolutions alone, and a warm-up of its own for biases."""
    trained = network.trainable_params()
    convolutions = [p for p in trained if p.ndim > 1]
    biases = [p for p in trained if p.ndim == 1 and not p.name.endswith("gamma")]
    scales = [p for p in trained if p.name.endswith("gamma")]
    groups = [
        {"params": convolutions, "lr": rates, "weight_decay": settings.weight_decay},
        {"params": scales, "lr": rates, "weight_decay": 0.0},
        {"params": biases, "lr": bias_rates, "weight_decay": 0.0},
    ]
    if settings.optimizer == "adamw":
        return nn.AdamWeightDecay(groups, settings.lr, beta1=settings.momentum)
    return nn.Momentum(groups, settings.lr, settings.momentum, use_nesterov=True)


if __name__ == "__main__":
    run_program(main)

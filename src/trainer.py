"""The training loop: epochs, evaluation, metrics and checkpoints. How a mask is chosen is no concern of it."""

import time
from contextlib import nullcontext

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops
from tqdm import tqdm

from .build import build_parts, describe_model
from .checkpoint import write_network
from .data import DATASETS, batches
from .evaluation import Evaluator
from .parallel import SINGLE, digest_of, local_batch_size
from .pruning.allocation import total_budget
from .pruning.pruner import prunable_weights
from .report import sparsity_report
from .resume import check_recipe, restore, save
from .run_folder import RunFolder


class Trainer:
    """A run of a configuration; `run()` trains to the end and returns the result.

    workers: this process among those that share the run. Worker 0 alone writes files and prints.
    Raises InputError where the configuration does not fit data, schedule or workers.
    """

    def __init__(self, config, workers=SINGLE):
        self.config = config
        self.workers = workers
        self.folder = RunFolder(config.output_path)
        self.parts = parts = build_parts(config, workers)
        self.network, self.optimizer, self.pruner, self.step = parts.network, parts.optimizer, parts.pruner, parts.step
        self.schedule, self.rates, self.average = parts.schedule, parts.rates, parts.average
        self.total_steps, self.steps_per_epoch = parts.total_steps, parts.data.steps_per_epoch
        self.evaluate = Evaluator(self.network, local_batch_size(config.batch_size, workers.size), workers)
        self.best = None
        self.last = None
        self.seconds = 0.0

    @property
    def writes(self):
        """Whether this process writes the output folder and prints."""
        return self.workers.rank == 0

    def run(self):
        """Train to the last epoch; returns the content of result.json."""
        if self.config.resume_ckpt:
            self._resume()
        if self.writes:
            self.folder.open(self.config)
            self.folder.keep_metrics(self.step.step // self.steps_per_epoch)
        if self.workers.size > 1:
            weights = (parameter.asnumpy() for parameter in self.network.get_parameters())
            self.workers.check_equal(digest_of(weights), f"weights before step {self.step.step + 1}")
        if self.step.step < self.total_steps:
            self._train_epochs()
        return self._write_result()

    def _train_epochs(self):
        first = self.step.step // self.steps_per_epoch
        if first:
            self.parts.data.train.set_init_step(self.step.step)
        iterator = self.parts.data.train.create_tuple_iterator(num_epochs=self.config.epoch_size)
        with tqdm(
            total=self.total_steps * self.config.batch_size,
            initial=self.step.step * self.config.batch_size,
            unit="img",
            unit_scale=True,
            disable=None if self.writes else True,
        ) as progress:
            for epoch in range(first, self.config.epoch_size):
                metrics = self._train_epoch(epoch + 1, iterator, progress)
                self._finish_epoch(metrics)
                if self.writes:
                    tqdm.write(format_epoch(metrics, self.config.epoch_size))

    def _train_epoch(self, epoch, iterator, progress):
        start = time.perf_counter()
        ops.assign(self.step.loss_sum, Tensor(0.0, ms.float32))
        self.step.last_update = self.step.last_rank_loss = None  # an epoch reports its own, also after a resume
        for index, (images, labels) in enumerate(batches(iterator)):
            loss = self.step(images, labels)
            progress.update(self.config.batch_size)
            if index % 20 == 0 and not progress.disable:  # reading the loss waits for the device
                density = 1.0 if self.pruner is None else self.pruner.density
                progress.set_postfix(
                    loss=f"{float(loss):.3f}", lr=f"{self.rates[self.step.step - 1]:.4f}", density=f"{density:.4f}"
                )
        own = [self.step.loss_sum, self.step.last_rank_loss]
        loss_sum, rank_loss = self.workers.mean([np.float32(0 if value is None else float(value)) for value in own])
        train_loss = float(loss_sum) / self.steps_per_epoch
        seconds = time.perf_counter() - start
        self._average_statistics()
        with self._deployed_weights():
            scores = self.evaluate(self.parts.data.test)
        self.seconds += time.perf_counter() - start
        update = self.step.last_update
        return {
            "epoch": epoch,
            "step": self.step.step,
            "lr": self.rates[self.step.step - 1],
            "train_loss": train_loss,
            "top1": scores.top1,
            "top5": scores.top5,
            "loss": scores.loss,
            "density": 1.0 if self.pruner is None else self.pruner.density,
            "drop_fraction": None if update is None else update.drop_fraction,
            "rank_loss": None if self.step.last_rank_loss is None else float(rank_loss),
            "images_per_second": self.steps_per_epoch * self.config.batch_size / seconds,
            "seconds": self.seconds,
        }

    def _finish_epoch(self, metrics):
        """Checkpoints and metrics of one epoch. The best counts only once the network has its target sparsity."""
        self.last = {key: metrics[key] for key in ("epoch", "top1", "top5", "loss")}
        reached = self.schedule is None or self.schedule.reached_target(metrics["step"])
        if reached and (self.best is None or self.last["top1"] > self.best["top1"]):
            self.best = self.last
        if not self.writes:
            return
        if self.best is self.last:
            self._write_network(self.folder.best, metrics)
        self._write_network(self.folder.last, metrics)
        self.folder.append_metrics(metrics)
        progress = {key: getattr(self, key) for key in ("best", "last", "seconds")}
        progress.update(epoch=metrics["epoch"], step=self.step.step, config=dict(self.config))
        save(self.folder.resume, self.network, self.optimizer, self.pruner, progress, self._other_state())

    def _write_result(self):
        self._check_zeros()
        with self._deployed_weights():
            self._check_zeros()
            weights = {weight.name: weight.asnumpy() for weight in prunable_weights(self.network)}
        report = sparsity_report(weights, self.config.tail_energy)
        result = {
            "top1": self.best["top1"],
            "top5": self.best["top5"],
            "best": self.best,
            "last": self.last,
            **report,
            "seconds": self.seconds,
        }
        if self.writes:
            self.folder.write_result(result)
        return result

    def _average_statistics(self):
        """Average over workers what is not trained: the moving averages that BatchNorm evaluates with.

        In training each worker normalises by its own images, as the moving averages take no part in it.
        """
        if self.workers.size == 1:
            return
        statistics = [parameter for parameter in self.network.get_parameters() if not parameter.requires_grad]
        if statistics:
            for parameter, mean in zip(statistics, self.workers.mean(p.asnumpy() for p in statistics)):
                ops.assign(parameter, Tensor(mean))

    def _check_zeros(self):
        """Raise RuntimeError unless the weights outside the masks are zero and the masks have the target density."""
        if self.pruner is None:
            return
        target = total_budget([mask.size for mask in self.pruner.masks], self.schedule.density)
        if self.pruner.kept != target:
            raise RuntimeError(f"the masks keep {self.pruner.kept} weights instead of {target}")
        for weight, mask in zip(self.pruner.weights, self.pruner.masks):
            if weight.asnumpy()[~mask].any():
                raise RuntimeError(f"{weight.name} has non-zero weights outside its mask")

    def _deployed_weights(self):
        """A context in which the network has the weights that are evaluated and deployed."""
        return nullcontext() if self.average is None else self.average.applied()

    def _write_network(self, path, metrics):
        with self._deployed_weights():
            write_network(path, self.network, self._describe(metrics))

    def _other_state(self):
        """Parameters beside network and optimiser that a resumed run needs."""
        return [parameter for part in (self.parts.scale, self.average) if part is not None for parameter in part.state]

    def _resume(self):
        path = self.folder.resume_path(self.config.resume_ckpt)
        saved = restore(path, self.network, self.optimizer, self.pruner, self._other_state())
        check_recipe(path, saved["config"], self.config)
        self.step.step = saved["step"]
        self.best, self.last, self.seconds = saved["best"], saved["last"], saved["seconds"]

    def _describe(self, metrics):
        """What a deployable checkpoint says of itself, enough to evaluate and export it."""
        return {
            "model": describe_model(self.config),
            "image_shape": list(DATASETS[self.config.dataset].IMAGE_SHAPE),
            "classes": list(DATASETS[self.config.dataset].class_names(self.config.data_path, "train")),
            "config": dict(self.config),
            "epoch": metrics["epoch"],
            "top1": metrics["top1"],
        }


def format_epoch(metrics, epochs):
    """One line of progress."""
    return (
        f"epoch {metrics['epoch']:>3}/{epochs}  loss {metrics['train_loss']:.4f}  top1 {metrics['top1']:6.2f}  "
        f"top5 {metrics['top5']:6.2f}  density {metrics['density']:.4f}  lr {metrics['lr']:.4f}  "
        f"{metrics['images_per_second']:,.0f} images/s"
    )

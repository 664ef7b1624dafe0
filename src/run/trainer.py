"""The training loop: epochs, evaluation, metrics and checkpoints. How a mask is chosen is no concern of it."""

import sys
import time
from contextlib import nullcontext

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops
from tqdm import tqdm

from ..config.keys import evaluation_batch
from ..data.batches import iterate
from ..platform.parallel import SINGLE
from ..pruning.layers import LayerChoice
from ..pruning.pruner import transposed_groups
from ..report.sparsity import sparsity_report
from ..report.tensorboard import require_tensorboard
from ..training.evaluation import Evaluator
from ..weights.checkpoint import read_checkpoint
from .build import build_parts, describe_model
from .final_scores import final_scores
from .folder import RunFolder
from .identity import check_alike, identity
from .resume import recipe_hash
from .saving import RunSaver, is_better


class Trainer:
    """A run of a configuration; `run()` trains to the end and returns the result.

    workers: this process among those that share the run. Worker 0 alone writes files and prints.
    Raises InputError where the configuration does not fit data, schedule or workers.
    """

    def __init__(self, config, workers=SINGLE):
        if config.tensorboard:
            require_tensorboard()
        self.workers = workers
        self.folder = RunFolder(config.output_path)
        self.parts = parts = build_parts(config, workers)
        self.config = config = parts.config
        self.network, self.pruner, self.step = parts.network, parts.pruner, parts.step
        self.schedule, self.rates, self.average = parts.schedule, parts.rates, parts.average
        self.total_steps, self.steps_per_epoch = parts.total_steps, parts.data.steps_per_epoch
        self._chosen = LayerChoice.of(config).weights(self.network)  # pruned, or would be
        self.statistics = _statistics(self.network, self.average)
        self.saver = RunSaver(config, parts, self.statistics, self.folder, workers)
        self.eval_batch_size = evaluation_batch(config, workers.size)
        self.evaluate = Evaluator(self.network, self.eval_batch_size, workers, stop=self.saver.leaves_evaluation)

    @property
    def writes(self):
        """Whether this process writes the output folder and prints."""
        return self.workers.rank == 0

    @property
    def progress(self):
        """How far the run has come."""
        return self.saver.progress

    def run(self):
        """Train to the last epoch; returns the content of result.json.

        On SIGINT or SIGTERM it ends after the step at hand, saved, with Stopped. Nobody else can write to the output
        folder meanwhile; raises InputError if somebody does.
        """
        try:
            return self._run()
        finally:
            self.folder.release()

    def _run(self):
        check_alike(identity(self.config, self.saver.content), self.workers)
        if self.writes:
            self.folder.claim()
        found = self.saver.resume() if self.config.resume_ckpt else None
        moved = found is not None and found.resolve().parent != self.folder.path.resolve()
        if found is None and self.writes:
            self.progress.initial = self._report()
        self.saver.state.check_equal(self.step.step)
        if self.writes:
            self._open_folder(found, moved)
        with self.saver.signals:
            if found is None or moved:
                self.saver.save()  # so that there is something to resume from, and a full disk shows at once
            if self.config.tensorboard and self.writes:
                self.folder.open_events(self.step.step)
            self._train_epochs()
        return self._write_result()

    def _open_folder(self, found, moved):
        """Make the output folder, or bring its files back to the state `found`; one that `moved` brings its own."""
        self.folder.open(self.config, found.parent if moved else None)
        if found is None:
            return
        if RunFolder(found.parent).best_epoch() > self.progress.epoch < self.config.epoch_size:
            # The file has run ahead of the state: the next epoch that counts replaces both.
            self.progress.best = None
        if not moved:
            self.folder.keep_metrics(self.progress.epoch)
            if found.resolve() == self.folder.previous.resolve():
                self.folder.go_back()

    def _train_epochs(self):
        with tqdm(
            total=self.total_steps * self.config.batch_size,
            initial=self.step.step * self.config.batch_size,
            unit="img",
            unit_scale=True,
            disable=None if self.writes else True,
        ) as bar:
            while self.progress.epoch < self.config.epoch_size:
                metrics = self._train_epoch(bar)
                self._finish_epoch(metrics)
                if self.writes:
                    tqdm.write(format_epoch(metrics, self.config.epoch_size))
                self.saver.stop_if_told()

    def _rest_of_epoch(self):
        """The batches of the epoch at hand from the step that the run has reached."""
        epoch = self.progress.epoch
        done = self.step.step - epoch * self.steps_per_epoch
        if done == self.steps_per_epoch:
            return ()  # stopped in the evaluation
        data = self.parts.data.train.epoch(epoch)
        if done:
            data.set_init_step(done)
        return iterate(data.create_tuple_iterator(num_epochs=1))

    def _train_epoch(self, bar):
        """Train from where the run is to the end of the epoch, and evaluate; returns the metrics."""
        start, first = time.monotonic(), self.step.step
        self._begin_epoch()
        for images, labels in self._rest_of_epoch():
            loss = self.step(images, labels)
            self._after_step(loss, bar)
        self.saver.check_sound()
        own = [*(np.float32(float(state)) for state in self.step.state), self.saver.rank_loss()]
        means = self.workers.mean(own)
        speed = (self.step.step - first) * self.config.batch_size / (time.monotonic() - start)
        return self._metrics(means, self._evaluate_epoch(), speed)

    def _begin_epoch(self):
        """Forget the sums of the epoch before, unless the run goes on within one."""
        if self.step.step == self.progress.epoch * self.steps_per_epoch:
            for own in self.step.state:
                ops.assign(own, Tensor(0.0, ms.float32))
            self.step.last_update = self.step.last_rank_loss = None  # an epoch reports its own

    def _after_step(self, loss, bar):
        """Between two steps: signals, warnings, progress, and a save where one is due."""
        step = self.step.step
        self.saver.signals.renew()
        bar.update(self.config.batch_size)
        self._report_collapse()
        if step % 20 == 1 and not bar.disable:  # reading the loss waits for the device
            self.step.watch.check()
            bar.set_postfix(loss=f"{float(loss):.3f}", lr=f"{self.rates[step - 1]:.4f}", density=f"{self._density:.4f}")
        if step < (self.progress.epoch + 1) * self.steps_per_epoch:
            self.saver.save_if_due()

    def _evaluate_epoch(self):
        """Scores of the weights that would be deployed now; a signal breaks it off, and ends the run."""
        self._average_statistics()
        with self._deployed_weights():
            scores = self.evaluate(self.parts.data.scored)
        self.saver.signals.renew()
        if scores is None:
            self.saver.stop(self.saver.signals.received)
        return scores

    @property
    def _density(self):
        return 1.0 if self.pruner is None else self.pruner.density

    def _metrics(self, means, scores, speed):
        """One line of metrics.jsonl; means: over workers of loss sum, failures and rank term; speed: images/s."""
        loss_sum, failures, rank_loss = map(float, means)
        update = self.step.last_update
        return {
            "epoch": self.progress.epoch + 1,
            "step": self.step.step,
            "lr": self.rates[self.step.step - 1],
            "train_loss": loss_sum / self.steps_per_epoch,
            "evaluated": "test" if self.parts.data.val is None else "val",  # where the next three come from
            "top1": scores.top1,
            "top5": scores.top5,
            "loss": scores.loss,
            "density": self._density,
            "drop_fraction": None if update is None else update.drop_fraction,
            "rank_loss": None if self.step.last_rank_loss is None else rank_loss,
            "rank_failures": round(failures * self.workers.size),
            "images_per_second": speed,
            "seconds": self.progress.seconds,
        }

    def _finish_epoch(self, metrics):
        """Checkpoints and metrics of one epoch. The best counts only once the network has its target sparsity."""
        progress = self.progress
        progress.last = {key: metrics[key] for key in ("epoch", "top1", "top5", "loss")}
        progress.epoch = metrics["epoch"]
        reached = self.schedule is None or self.schedule.reached_target(metrics["step"])
        if reached and is_better(progress.last, progress.best):
            progress.best = progress.last
        if self.writes:
            if progress.best is progress.last:
                self._write_network(self.folder.best, metrics)
            self._write_network(self.folder.last, metrics)
            self.folder.append_metrics(metrics)
        self.saver.save()

    def _report_collapse(self):
        """A line on every layer that the mask update of this step has taken the last weight from."""
        update = self.step.last_update
        if self.writes and update is not None and update.step == self.step.step:
            for name in update.collapsed:
                text = f"warning: step {update.step}: {name} has lost its last weight; --min_layer_density keeps some"
                tqdm.write(text, file=sys.stderr)

    def _write_result(self):
        self._check_zeros()
        with self._deployed_weights():
            self._check_zeros()
            self._check_written()
            report = self._report()
            scores = final_scores(
                self.progress, self.parts.data, self.network, self.evaluate, self.folder.best, self.workers
            )
        if scores is None:
            self.saver.stop(self.saver.signals.received)
        best, last = scores
        progress = self.progress
        result = {
            "top1": best["top1"],
            "top5": best["top5"],
            "best": best,
            "last": last,
            **report,
            "initial": progress.initial,
            "recipe": recipe_hash(self.config),
            "seconds": progress.seconds,
        }
        if self.writes:
            self.folder.write_result(result)
        return result

    def _report(self):
        weights = {weight.name: weight.asnumpy() for weight in self._chosen}
        return sparsity_report(weights, self.config.tail_energy, transposed_groups(self.network))

    def _average_statistics(self):
        """Average over workers what is not trained: the moving averages that BatchNorm evaluates with.

        In training each worker normalises by its own images, as the moving averages take no part in it.
        """
        if self.workers.size > 1 and self.statistics:
            for parameter, mean in zip(self.statistics, self.workers.mean(p.asnumpy() for p in self.statistics)):
                ops.assign(parameter, Tensor(mean))

    def _check_zeros(self):
        """Raise RuntimeError unless the weights outside the masks are zero and the masks have the target density."""
        if self.pruner is not None:
            self.pruner.check()

    def _check_written(self):
        """Raise RuntimeError unless last.ckpt, read back, holds the network bit for bit: zeros and dense parameters."""
        if not self.writes or not self.folder.last.exists():
            return
        tensors, _ = read_checkpoint(self.folder.last)
        for parameter in self.network.get_parameters():
            if tensors[parameter.name].tobytes() != parameter.asnumpy().tobytes():
                raise RuntimeError(f"{self.folder.last}: {parameter.name} is not that of the trained network")

    def _deployed_weights(self):
        """A context in which the network has the weights that are evaluated and deployed."""
        return nullcontext() if self.average is None else self.average.applied()

    def _write_network(self, path, metrics):
        with self._deployed_weights():
            self.folder.write_network(path, self.network, self._describe(metrics))

    def _describe(self, metrics):
        """What a deployable checkpoint says of itself, enough to evaluate and export it."""
        info = self.parts.data.info
        return {
            "model": describe_model(self.config, info),
            "image_shape": list(info.image_shape),
            "classes": list(info.classes),
            "data": {"mean": info.mean, "std": info.std, "crop": info.crop, "skipped": info.skipped},
            "config": dict(self.config),
            **({"pruned": [weight.name for weight in self._chosen]} if self.config.exclude else {}),
            "eval_batch_size": self.eval_batch_size,
            "epoch": metrics["epoch"],
            "evaluated": metrics["evaluated"],
            "top1": metrics["top1"],
        }


def _statistics(network, average):
    """What moves without being trained, and its averages: BatchNorm's statistics, each worker's own in an epoch."""
    statistics = [parameter for parameter in network.get_parameters() if not parameter.requires_grad]
    return statistics + ([a for p in statistics for a in average.state_of(p)] if average is not None else [])


def format_epoch(metrics, epochs):
    """One line of progress."""
    return (
        f"epoch {metrics['epoch']:>3}/{epochs}  loss {metrics['train_loss']:.4f}  top1 {metrics['top1']:6.2f}  "
        f"top5 {metrics['top5']:6.2f}  density {metrics['density']:.4f}  lr {metrics['lr']:.4f}  "
        f"{metrics['images_per_second']:,.0f} images/s"
    )

"""The training loop: epochs, evaluation, metrics and checkpoints. How a mask is chosen is no concern of it."""

import signal
import sys
import time
from contextlib import nullcontext

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops
from tqdm import tqdm

from .build import build_parts, describe_model
from .checkpoint import read_checkpoint
from .data import DATASETS, batches
from .evaluation import Evaluator
from .finite import check_parameters
from .parallel import SINGLE, digest_of, local_batch_size
from .pruning.pruner import UpdateRecord, prunable_weights
from .report import sparsity_report
from .resume import RunState, check_recipe, read_run, recipe_hash
from .run_folder import RunFolder
from .stopping import SIGNALS, Stopped, StopSignals


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
        self.statistics = _statistics(self.network, self.average)
        local_batch = local_batch_size(config.batch_size, workers.size)
        self.evaluate = Evaluator(self.network, local_batch, workers, stop=self._leaves_evaluation)
        self.state = RunState(
            self.network,
            self.optimizer,
            self.pruner,
            [p for part in (self.step, parts.scale, self.average) if part is not None for p in part.state],
            [*self.statistics, *self.step.state],
            workers,
        )
        self.signals = StopSignals()
        self.epoch = 0  # finished epochs
        self.initial = None  # the network's report before the first step
        self.best = None
        self.last = None
        self.started = self.saved = time.monotonic()

    @property
    def writes(self):
        """Whether this process writes the output folder and prints."""
        return self.workers.rank == 0

    @property
    def seconds(self):
        """The time the run has taken so far, over all its processes."""
        return time.monotonic() - self.started

    def run(self):
        """Train to the last epoch; returns the content of result.json.

        On SIGINT or SIGTERM it ends after the step at hand, saved, with Stopped.
        """
        found = self._resume() if self.config.resume_ckpt else None
        if found is None and self.writes:
            self.initial = self._report()
        if self.workers.size > 1:
            weights = [parameter.asnumpy() for parameter in self.network.trainable_params()]
            self.workers.check_equal(digest_of([*weights, self.step.step]), f"weights after step {self.step.step}")
        moved = found is not None and found.resolve().parent != self.folder.path.resolve()
        if self.writes:
            self.folder.open(self.config)
            if moved:
                self.folder.take_over(found.parent)
            self.folder.keep_metrics(self.epoch)
            if self.folder.best_epoch() > self.epoch < self.config.epoch_size:
                self.best = None  # the file has run ahead of the state: the next epoch that counts replaces both
            if found is not None and found.resolve() == self.folder.previous.resolve():
                self.folder.go_back()
        with self.signals:
            if found is None or moved:
                self._save()  # so that there is something to resume from, and a full disk shows at once
            self._train_epochs()
        return self._write_result()

    def _train_epochs(self):
        with tqdm(
            total=self.total_steps * self.config.batch_size,
            initial=self.step.step * self.config.batch_size,
            unit="img",
            unit_scale=True,
            disable=None if self.writes else True,
        ) as progress:
            while self.epoch < self.config.epoch_size:
                metrics = self._train_epoch(progress)
                self._finish_epoch(metrics)
                if self.writes:
                    tqdm.write(format_epoch(metrics, self.config.epoch_size))
                self._stop_if_told()

    def _rest_of_epoch(self):
        """The batches of the epoch at hand from the step that the run has reached."""
        done = self.step.step - self.epoch * self.steps_per_epoch
        if done == self.steps_per_epoch:
            return ()  # stopped in the evaluation
        data = self.parts.data.train.epoch(self.epoch)
        if done:
            data.set_init_step(done)
        return batches(data.create_tuple_iterator(num_epochs=1))

    def _train_epoch(self, progress):
        """Train from where the run is to the end of the epoch, and evaluate; returns the metrics."""
        start, first = time.monotonic(), self.step.step
        if first == self.epoch * self.steps_per_epoch:
            for own in self.step.state:
                ops.assign(own, Tensor(0.0, ms.float32))
            self.step.last_update = self.step.last_rank_loss = None  # an epoch reports its own
        end = (self.epoch + 1) * self.steps_per_epoch
        for images, labels in self._rest_of_epoch():
            loss = self.step(images, labels)
            self.signals.renew()
            progress.update(self.config.batch_size)
            self._report_collapse()
            if self.step.step % 20 == 1 and not progress.disable:  # reading the loss waits for the device
                self.step.watch.check()
                density = 1.0 if self.pruner is None else self.pruner.density
                progress.set_postfix(
                    loss=f"{float(loss):.3f}", lr=f"{self.rates[self.step.step - 1]:.4f}", density=f"{density:.4f}"
                )
            if self.step.step < end:
                self._save_if_due()
        self._check_finite()
        own = [*(np.float32(float(state)) for state in self.step.state), self._rank_loss()]
        loss_sum, failures, rank_loss = self.workers.mean(own)
        seconds = time.monotonic() - start
        self._average_statistics()
        with self._deployed_weights():
            scores = self.evaluate(self.parts.data.test)
        self.signals.renew()
        if scores is None:
            self._stop(self.signals.received)
        update = self.step.last_update
        return {
            "epoch": self.epoch + 1,
            "step": self.step.step,
            "lr": self.rates[self.step.step - 1],
            "train_loss": float(loss_sum) / self.steps_per_epoch,
            "top1": scores.top1,
            "top5": scores.top5,
            "loss": scores.loss,
            "density": 1.0 if self.pruner is None else self.pruner.density,
            "drop_fraction": None if update is None else update.drop_fraction,
            "rank_loss": None if self.step.last_rank_loss is None else float(rank_loss),
            "rank_failures": round(float(failures) * self.workers.size),
            "images_per_second": (self.step.step - first) * self.config.batch_size / seconds,
            "seconds": self.seconds,
        }

    def _rank_loss(self):
        return np.float32(0 if self.step.last_rank_loss is None else float(self.step.last_rank_loss))

    def _finish_epoch(self, metrics):
        """Checkpoints and metrics of one epoch. The best counts only once the network has its target sparsity."""
        self.last = {key: metrics[key] for key in ("epoch", "top1", "top5", "loss")}
        self.epoch = metrics["epoch"]
        reached = self.schedule is None or self.schedule.reached_target(metrics["step"])
        if reached and (self.best is None or self.last["top1"] > self.best["top1"]):
            self.best = self.last
        if self.writes:
            if self.best is self.last:
                self._write_network(self.folder.best, metrics)
            self._write_network(self.folder.last, metrics)
            self.folder.append_metrics(metrics)
        self._save()

    def _save(self):
        """Write the state of the run, if it is sound; every worker gives its part."""
        self._check_finite()
        arrays = self.state.arrays()
        rank_losses = self.workers.gather(self._rank_loss()[None])[:, 0].tolist()
        self.saved = time.monotonic()
        if not self.writes:
            return
        update = self.step.last_update
        progress = {
            "step": self.step.step,
            "epoch": self.epoch,
            "initial": self.initial,
            "best": self.best,
            "last": self.last,
            "seconds": self.seconds,
            "update": None if update is None else update._asdict(),
            "rank_losses": None if self.step.last_rank_loss is None else rank_losses,
            "recipe": recipe_hash(self.config),
            "config": dict(self.config),
        }
        self.folder.write_state(arrays, progress)

    def _check_finite(self):
        """Raise InputError if a loss, a gradient or a parameter is not finite: none of that is ever written."""
        self.step.watch.check()
        check_parameters(self.network.get_parameters(), self.step.step)

    def _report_collapse(self):
        """A line on every layer that the mask update of this step has taken the last weight from."""
        update = self.step.last_update
        if self.writes and update is not None and update.step == self.step.step:
            for name in update.collapsed:
                text = f"warning: step {update.step}: {name} has lost its last weight; --min_layer_density keeps some"
                tqdm.write(text, file=sys.stderr)

    def _save_if_due(self):
        """Between two steps of an epoch: save if it is time, and stop if a signal came.

        Workers agree on both at a step that counts updates, where they talk to each other anyway.
        """
        step, config = self.step.step, self.config
        due = config.save_steps and step % config.save_steps == 0
        stop = 0
        if self.workers.size == 1 or step % config.update_interval == 0:
            late = 0 < 60 * config.save_minutes <= time.monotonic() - self.saved
            late, stop = self._agree(late)
            due = due or late
        if stop:
            self._stop(stop)
        if due:
            self._save()

    def _agree(self, late=False):
        """Whether any worker finds a save due, and the signal that any has received, or 0."""
        late, *signals = self.workers.any([late, *(self.signals.received == number for number in SIGNALS)])
        return late, next((number for number, received in zip(SIGNALS, signals) if received), 0)

    def _stop_if_told(self):
        """After an epoch, which is saved: stop if a signal came."""
        _, stop = self._agree()
        if stop and self.epoch < self.config.epoch_size:
            self._stop(stop)

    def _leaves_evaluation(self):
        """Whether to break an evaluation off. Several workers finish it, as they cannot agree on a batch."""
        self.signals.renew()
        return self.workers.size == 1 and bool(self.signals.received)

    def _stop(self, number):
        """Save and end with Stopped, all workers at once."""
        self._save()
        self._agree()  # nobody leaves before the file is written
        raise Stopped(
            f"stopped by {signal.Signals(number).name} after step {self.step.step} of {self.total_steps}, "
            f"saved in {self.folder.path}; continue with the same command and --resume_ckpt auto",
            number,
        )

    def _write_result(self):
        self._check_zeros()
        with self._deployed_weights():
            self._check_zeros()
            self._check_written()
            report = self._report()
        result = {
            "top1": self.best["top1"],
            "top5": self.best["top5"],
            "best": self.best,
            "last": self.last,
            **report,
            "initial": self.initial,
            "recipe": recipe_hash(self.config),
            "seconds": self.seconds,
        }
        if self.writes:
            self.folder.write_result(result)
        return result

    def _report(self):
        weights = {weight.name: weight.asnumpy() for weight in prunable_weights(self.network)}
        return sparsity_report(weights, self.config.tail_energy)

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

    def _resume(self):
        """Take over the state of a run; returns the file that it was found in."""
        path = self.folder.resume_path(self.config.resume_ckpt)
        arrays, saved, found = read_run(path)
        check_recipe(found, saved["config"], self.config)
        self.state.load(arrays, found)
        self.step.step, self.epoch = saved["step"], saved["epoch"]
        self.initial, self.best, self.last = saved.get("initial"), saved["best"], saved["last"]
        self.started = time.monotonic() - saved["seconds"]
        if saved["update"] is not None:
            self.step.last_update = UpdateRecord(**saved["update"])
        losses = saved["rank_losses"]
        if losses is not None:
            same = len(losses) == self.workers.size
            self.step.last_rank_loss = losses[self.workers.rank] if same else sum(losses) / len(losses)
        if self.writes:
            if found != path:
                print(f"{path} is missing or damaged; continuing from the copy before it, {found}", file=sys.stderr)
            print(f"continuing after step {saved['step']}, recipe {recipe_hash(self.config)}", file=sys.stderr)
        return found

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

"""When a run is saved, how it stops, and how it goes on; see docs/reliability.md."""

import signal
import sys
import time
from dataclasses import dataclass, field
from typing import Any, Optional

import numpy as np

from ..platform.stopping import SIGNALS, Stopped, StopSignals
from ..pruning.pruner import UpdateRecord
from ..training.finite import check_parameters
from ..training.state import RunState
from .extension import EXTENDED, describe_extension, is_longer, recipe_before
from .identity import check_content
from .resume import check_recipe, read_run, recipe_hash
from .state_schema import check_progress, read_progress


@dataclass
class Progress:
    """How far a run has come, beside the arrays that training changes.

    epoch: finished epochs; initial: the network's report before the first step, on worker 0; best, last: scores with
    their epoch; started: the clock's time at which the run would have begun, had it never been interrupted.
    """

    epoch: int = 0
    initial: Any = None
    best: Optional[dict] = None
    last: Optional[dict] = None
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self):
        """The time the run has taken so far, over all its processes."""
        return time.monotonic() - self.started


def is_better(scores, best):
    """Whether scores (top1, loss) beat the best so far, None at first: more is right, or as much at a lower loss."""
    return best is None or (scores["top1"], -scores["loss"]) > (best["top1"], -best["loss"])


class RunSaver:
    """Saves a run with all that it needs to go on, and takes it up again.

    parts: the run (`build_parts`); statistics: Parameters that each worker may have its own values of, such as
    BatchNorm's moving averages. Methods are collective: every worker must call them, worker 0 writes.
    """

    def __init__(self, config, parts, statistics, folder, workers):
        self.config = config
        self.network, self.step = parts.network, parts.step
        self.total_steps, self.rates = parts.total_steps, parts.rates
        self.folder = folder
        self.workers = workers
        others = [p for part in (self.step, parts.scale, parts.average) if part is not None for p in part.state]
        own = [*statistics, *self.step.state]
        self.state = RunState(self.network, parts.optimizer, parts.pruner, others, own, workers)
        self.steps_per_epoch = parts.data.steps_per_epoch
        self.content = parts.content()
        self.progress = Progress()
        self.signals = StopSignals()
        self.saved = time.monotonic()

    def check_sound(self):
        """Raise InputError if a loss, a gradient or a parameter is not finite: none of that is ever written.

        Nor is what workers disagree on: that is a RuntimeError on all of them.
        """
        self.step.watch.check()
        check_parameters(self.network.get_parameters(), self.step.step)
        self.state.check_equal(self.step.step)

    def rank_loss(self):
        """This worker's rank term of the step that last computed one, as float32; 0 if none has."""
        return np.float32(0 if self.step.last_rank_loss is None else float(self.step.last_rank_loss))

    def save(self):
        """Write the state of the run, if it is sound; every worker gives its part."""
        self.check_sound()
        arrays = self.state.arrays()
        rank_losses = self.workers.gather(self.rank_loss()[None])[:, 0].tolist()
        self.saved = time.monotonic()
        if self.workers.rank:
            return
        update, progress = self.step.last_update, self.progress
        written = {
            "step": self.step.step,
            "epoch": progress.epoch,
            "initial": progress.initial,
            "best": progress.best,
            "last": progress.last,
            "seconds": progress.seconds,
            "update": None if update is None else update._asdict(),
            "rank_losses": None if self.step.last_rank_loss is None else rank_losses,
            "recipe": recipe_hash(self.config),
            "config": dict(self.config),
            "data": self.content,
        }
        self.folder.write_state(arrays, written)

    def resume(self):
        """Take over the state that `resume_ckpt` names; returns the file that it was found in. Raises InputError."""
        path = self.folder.resume_path(self.config.resume_ckpt)
        arrays, saved, found = read_run(path)
        saved = read_progress(found, saved)
        longer = is_longer(saved, self.config)
        check_recipe(found, recipe_before(saved, self.config), self.config, EXTENDED if longer else ())
        check_content(found, saved.data, self.content)
        check_progress(found, saved, self.steps_per_epoch, self.config.epoch_size)
        self.state.load(arrays, found, saved.step)
        self.step.step = saved.step
        started = time.monotonic() - saved.seconds
        best, last = (record and record.model_dump() for record in (saved.best, saved.last))
        self.progress = Progress(saved.epoch, saved.initial, best, last, started)
        if saved.update is not None:
            self.step.last_update = UpdateRecord(**saved.update.model_dump())
        losses = saved.rank_losses
        if losses is not None:
            same = len(losses) == self.workers.size
            self.step.last_rank_loss = losses[self.workers.rank] if same else sum(losses) / len(losses)
        if self.workers.rank == 0:
            if found != path:
                print(f"{path} is missing or damaged; continuing from the copy before it, {found}", file=sys.stderr)
            print(f"continuing after step {saved.step}, recipe {recipe_hash(self.config)}", file=sys.stderr)
            if longer:
                print(describe_extension(saved, self.config, self.rates), file=sys.stderr)
        return found

    def save_if_due(self):
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
            self.stop(stop)
        if due:
            self.save()

    def stop_if_told(self):
        """After an epoch, which is saved: stop if a signal came."""
        _, stop = self._agree()
        if stop and self.progress.epoch < self.config.epoch_size:
            self.stop(stop)

    def leaves_evaluation(self):
        """Whether to break an evaluation off. Several workers finish it, as they cannot agree on a batch."""
        self.signals.renew()
        return self.workers.size == 1 and bool(self.signals.received)

    def stop(self, number):
        """Save and end with Stopped, all workers at once."""
        self.save()
        self._agree()  # nobody leaves before the file is written
        raise Stopped(
            f"stopped by {signal.Signals(number).name} after step {self.step.step} of {self.total_steps}, "
            f"saved in {self.folder.path}; continue with the same command and --resume_ckpt auto",
            number,
        )

    def _agree(self, late=False):
        """Whether any worker finds a save due, and the signal that any has received, or 0."""
        late, *signals = self.workers.any([late, *(self.signals.received == number for number in SIGNALS)])
        return late, next((number for number, received in zip(SIGNALS, signals) if received), 0)

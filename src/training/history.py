"""What a training came to, in lines like those of a run's metrics.jsonl, noted every so many steps."""

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

MOST_LINES = 1000  # a line waits for the device, and all of them travel in a saved state


class History:
    """Lines of a TrainStep, at most a thousand or so in a training, every `interval` steps or more rarely.

    lines: dicts of step, train_loss (the mean since the line before), density, drop_fraction and rank_loss (of the last
    mask update, None before the first). Among workers losses are means over them.
    """

    def __init__(self, step, pruner, interval):
        self.step, self.pruner = step, pruner
        total = pruner.schedule.total_steps
        self.every = min(total, interval * -(-total // (interval * MOST_LINES)))
        self.lines = []

    def note(self):
        """Add a line if it is time for one. Collective: all workers call it after every step."""
        step = self.step.step
        if step % self.every:
            return
        since = self.lines[-1]["step"] if self.lines else 0
        rank_loss, update = self.step.last_rank_loss, self.step.last_update
        own = [float(self.step.loss_sum), 0.0 if rank_loss is None else float(rank_loss)]
        loss_sum, mean_rank_loss = self.step.workers.mean([np.array(own)])[0].tolist()
        line = {
            "step": step,
            "train_loss": loss_sum / (step - since),
            "density": self.pruner.density,
            "drop_fraction": None if update is None else update.drop_fraction,
            "rank_loss": None if rank_loss is None else mean_rank_loss,
        }
        self.lines.append(line)
        ops.assign(self.step.loss_sum, Tensor(0.0, ms.float32))

    def restart(self, lines):
        """Go on after the lines of a saved state."""
        self.lines = list(lines)

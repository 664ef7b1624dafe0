"""When masks are updated, how dense the network is by then, and how much each update drops and regrows."""

import math
from dataclasses import dataclass

MOST_STEPS = 2**53  # beyond it a step is no longer a whole number in a float; no run comes near


def _exponential(initial, final, share):
    """d0 (d / d0)^x: by the same factor at every update, as in RPG."""
    return initial * (final / initial) ** share


def _cubic(initial, final, share):
    """d + (d0 - d) (1 - x)^3: fast at first, slowly at the end (Zhu and Gupta, "To prune, or not to prune", 2017)."""
    return final + (initial - final) * (1 - share) ** 3


def _alternating(initial, final, share):
    """Turns of d0 and d, d0 first and d last: compressed and decompressed phases (Peste et al., "AC/DC", 2021)."""
    return initial if share == 0 or math.ceil(share * PHASES) % 2 else final


PHASES = 8  # of `alternating`
# Of (d0, d, x), where x is the share of updates done.
CURVES = {"exponential": _exponential, "cubic": _cubic, "alternating": _alternating}


@dataclass(frozen=True)
class PruningSchedule:
    """The stateless schedule of gradual pruning with drop and grow.

    Steps are counted from 1; `total_steps` is T. Every `interval` (dT) steps, up to `end` * T, one mask update takes
    the place of an optimiser step (but see `trains_at_updates`); none does up to `start` * T. The updates inside
    `window` * T lower the global density; later ones only move weights around. All methods are pure functions of the
    step, so a resumed run continues where it stopped.

    Raises ValueError if no update fits into the window, naming the numbers.
    """

    total_steps: int
    interval: int
    density: float  # target, in (0, 1]
    drop_fraction: float  # alpha: share of each layer's weights dropped and regrown at step 0
    window: float  # share of T in which density falls
    end: float  # share of T after which masks are frozen
    initial_density: float = 1.0  # equal to `density` for methods that are sparse from the start
    curve: str = "exponential"  # how density falls: a name of CURVES
    start: float = 0.0  # share of T that is trained before the first mask update

    def __post_init__(self):
        if self.updates < 1:
            last = self._steps(self.window)
            if self.left_out:
                raise ValueError(
                    f"no mask update fits between prune_start (step {self._steps(self.start)} of {self.total_steps}) "
                    f"and the end of prune_window (step {last}); lower prune_start or update_interval ({self.interval})"
                )
            least = self._least_steps()
            ways = [f"lower update_interval to {last} or less"] if last else []
            ways.append(f"train for {least} steps or more" if least else "raise prune_window")
            raise ValueError(
                f"no mask update fits: the pruning window ends at step {last} of {self.total_steps}, before the first "
                f"update at step {self.interval}; {', or '.join(ways)}"
            )

    def _steps(self, share):
        return math.floor(share * self.total_steps + 1e-9)  # 0.9 * 880 must be 792 whatever the rounding

    def _least_steps(self):
        """The fewest total steps with which one update fits into the window; None if no run would be long enough."""
        steps = (self.interval - 1e-9) / self.window if self.window else math.inf
        return math.ceil(steps) if steps < MOST_STEPS else None

    @property
    def updates(self):
        """N: the number of mask updates inside the pruning window."""
        return self._steps(self.window) // self.interval - self.left_out

    @property
    def left_out(self):
        """The number of updates up to the start, which are not made."""
        return self._steps(self.start) // self.interval

    @property
    def last_pruning_step(self):
        """The step of the N-th update, from which on the target density is met."""
        return (self.left_out + self.updates) * self.interval

    @property
    def end_step(self):
        """T_end: the last step at which a mask may change."""
        return max(self._steps(self.end), self.last_pruning_step)

    @property
    def trains_at_updates(self):
        """Whether an optimiser step follows each mask update, on the gradients of before: as in the released code, if
        nothing is dropped and regrown (alpha 0).
        """
        return self.drop_fraction == 0

    def is_update(self, step):
        """Whether masks are updated at `step`."""
        return self.left_out * self.interval < step <= self.end_step and step % self.interval == 0

    def lowers_density(self, step):
        """Whether the update at `step` chooses new layer budgets; later updates keep those of the masks."""
        return step <= self.last_pruning_step

    def reached_target(self, step):
        """Whether the masks have the target density after `step`."""
        return step >= self.last_pruning_step

    def density_at(self, step):
        """Global density after `step`: on the curve after the i-th of N updates, exactly d from the N-th on."""
        update = min(max(step // self.interval - self.left_out, 0), self.updates)
        if update == self.updates:
            return self.density
        return CURVES[self.curve](self.initial_density, self.density, update / self.updates)

    def drop_fraction_at(self, step):
        """f = alpha / 2 (1 + cos(pi t / T_end)): share of its weights that each layer drops and regrows at `step`."""
        return self.drop_fraction / 2 * (1 + math.cos(math.pi * min(step / self.end_step, 1.0)))

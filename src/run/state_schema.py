"""What a run's state says of its progress: one schema, and what must hold between its numbers and the run's."""

from typing import Any, Optional

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt, ValidationError

from ..platform.errors import InputError


class _Record(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class Scored(_Record):
    """An epoch and its scores; in percent, but for the loss."""

    epoch: int = Field(ge=1)
    top1: float = Field(ge=0, le=100)
    top5: float = Field(ge=0, le=100)
    loss: FiniteFloat


class Updated(_Record):
    """The last mask update, the fields of `UpdateRecord`."""

    step: int = Field(ge=1)
    density: float = Field(ge=0, le=1)
    drop_fraction: float = Field(ge=0, le=1)
    kept: NonNegativeInt
    changed: NonNegativeInt
    collapsed: list[str] = []


class SavedRun(_Record):
    """The description inside a `resume.ckpt`; what older versions did not write has a default."""

    step: NonNegativeInt
    epoch: NonNegativeInt
    initial: Optional[dict[str, Any]] = None
    best: Optional[Scored]
    last: Optional[Scored]
    seconds: float = Field(ge=0, allow_inf_nan=False)
    update: Optional[Updated]
    rank_losses: Optional[list[FiniteFloat]] = Field(min_length=1)
    recipe: str = ""
    config: dict[str, Any]
    data: Optional[dict[str, str]] = None


def read_progress(path, values):
    """The SavedRun of the description `values` in the state at `path`. Raises InputError naming the first bad field."""
    try:
        return SavedRun(**values)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(map(str, problem["loc"]))
        raise InputError(
            f"resume_ckpt: {path} is not the state of a run as this version writes it: {field}: {problem['msg']}"
        ) from None


def check_progress(path, saved, steps_per_epoch, epochs):
    """Raise InputError unless step, epoch and last mask update of a SavedRun fit each other and the run."""
    begins = saved.epoch * steps_per_epoch
    if saved.epoch > epochs or not begins <= saved.step <= min(begins + steps_per_epoch, epochs * steps_per_epoch):
        raise InputError(
            f"resume_ckpt: {path}: step {saved.step} does not lie in epoch {saved.epoch + 1} of {epochs}, "
            f"each of {steps_per_epoch} steps"
        )
    if saved.update is not None and saved.update.step > saved.step:
        raise InputError(f"resume_ckpt: {path}: its last mask update comes after its own step {saved.step}")

"""The settings of pruning: keys, types, ranges and meaning, with the paper's defaults where it has them."""

from typing import Annotated, Literal, Union

from pydantic import BaseModel, ConfigDict, Field

from .allocation import SAFE
from .methods import METHODS, fixed_settings, resolve_distribution


class PruningSettings(BaseModel):
    """What prunes a network and how."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    method: Literal[tuple(METHODS)] = Field("rpg", description="pruning method")
    sparsity: float = Field(0.98, ge=0, lt=1, description="target share of zeros among prunable weights")
    distribution: Literal["auto", "global", "uniform", "erk"] = Field("auto", description="layer densities")
    min_layer_density: Union[Annotated[float, Field(ge=0, lt=1)], Literal[SAFE]] = Field(
        SAFE,
        description="share every layer keeps at least; 0: none; auto: a quarter of what "
        "ERK gives it, for dataset folder, networks of mindcv and one's own; else 0",
    )
    update_interval: int = Field(100, ge=1, description="dT: steps between mask updates")
    drop_fraction: float = Field(0.3, ge=0, le=1, description="alpha: share dropped and regrown at the first update")
    prune_window: float = Field(0.9, gt=0, le=1, description="share of the run in which density falls")
    update_end: float = Field(0.901, gt=0, le=1, description="T_end: share of the run after which masks are frozen")

    rank_weight: float = Field(0.5, ge=0, description="lambda: weight of the rank term")
    tail_energy: float = Field(0.1, gt=0, lt=1, description="eta: share of energy behind the rank-k approximation")
    rank_solver: Literal["auto", "gram", "svd"] = Field("auto", description="solver of the rank term")
    rank_interval: int = Field(
        0, ge=0, description="the rank term also moves the weights every that many steps; 0: never"
    )


def apply_method(settings, given):
    """Set what the method fixes. given: the keys that were set by hand; ValueError if they contradict the method."""
    for key, value in fixed_settings(settings.method).items():
        if key in given and getattr(settings, key) != value:
            raise ValueError(f"{key}: method {settings.method} fixes it to {value:g}; leave it out")
        setattr(settings, key, value)


def complete(settings):
    """Choose the distribution that is left to the method. Raises ValueError if settings do not fit each other."""
    try:
        settings.distribution = resolve_distribution(settings.method, settings.distribution)
    except ValueError as error:
        raise ValueError(f"distribution: {error}") from None
    if settings.update_end < settings.prune_window:
        raise ValueError(
            f"update_end {settings.update_end:g} lies before the end of prune_window {settings.prune_window:g}; "
            "raise update_end or lower prune_window"
        )

"""The settings of pruning: keys, types, ranges and meaning, with the paper's defaults where it has them."""

from typing import Annotated, Literal, Union

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from .allocation import SAFE
from .methods import METHODS, fixed_settings, resolve_distribution
from .pattern import Pattern
from .schedule import CURVES


def _is_pattern(text):
    if not isinstance(text, str):  # YAML reads 2:4 as 2 minutes and 4 seconds
        raise PydanticCustomError("pattern", 'Input should be N:M in quotes, such as "2:4"')
    try:
        return text and str(Pattern.parse(text))
    except ValueError as error:
        raise PydanticCustomError("pattern", f"Input should be {error}") from None


PatternName = Annotated[str, BeforeValidator(_is_pattern)]


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
    pattern: PatternName = Field(
        "", description="N:M, N non-zeros in every M neighbours along the input channels; sets sparsity to 1 - N/M"
    )
    pattern_rest: Literal["dense", "unstructured"] = Field(
        "dense", description="layers that cannot take the pattern, and the first"
    )
    density_schedule: Literal[tuple(CURVES)] = Field("exponential", description="how density falls in the window")
    update_interval: int = Field(100, ge=1, le=10**9, description="dT: steps between mask updates")
    drop_fraction: float = Field(0.3, ge=0, le=1, description="alpha: share dropped and regrown at the first update")
    prune_start: float = Field(0.0, ge=0, lt=1, description="share of the run that is trained before masks change")
    prune_window: float = Field(0.9, gt=0, le=1, description="share of the run by whose end density has fallen")
    update_end: float = Field(0.901, gt=0, le=1, description="T_end: share of the run after which masks are frozen")

    rank_weight: float = Field(0.5, ge=0, description="lambda: weight of the rank term")
    tail_energy: float = Field(0.1, gt=0, lt=1, description="eta: share of energy behind the rank-k approximation")
    rank_solver: Literal["auto", "gram", "svd"] = Field("auto", description="solver of the rank term")
    rank_interval: int = Field(
        0, ge=0, le=10**9, description="the rank term also moves the weights every that many steps; 0: never"
    )


def apply_method(settings, given):
    """Set what method and pattern fix. given: the keys that were set by hand; ValueError if they contradict these."""
    for key, value in fixed_settings(settings.method).items():
        if key in given and getattr(settings, key) != value:
            raise ValueError(f"{key}: method {settings.method} fixes it to {value:g}; leave it out")
        setattr(settings, key, value)
    if settings.method == "dense":
        if settings.pattern and "pattern" in given:
            raise ValueError("pattern: method dense prunes nothing; leave one of the two out")
        settings.pattern, settings.pattern_rest = "", "dense"
    if not settings.pattern:
        return
    density = Pattern.parse(settings.pattern).density
    for key, value in {"sparsity": 1 - density, "distribution": "auto", "min_layer_density": 0.0}.items():
        if key in given and getattr(settings, key) != value:
            raise ValueError(
                f"{key}: pattern {settings.pattern} gives each of its layers a density of {density:g}; leave one out"
            )
        setattr(settings, key, value)


def complete(settings):
    """Choose the distribution that is left to the method. Raises ValueError if settings do not fit each other."""
    try:
        settings.distribution = resolve_distribution(settings.method, settings.distribution)
    except ValueError as error:
        raise ValueError(f"distribution: {error}") from None
    if settings.pattern_rest != "dense" and not settings.pattern:
        raise ValueError("pattern_rest: only beside a pattern; leave it out")
    if settings.prune_start >= settings.prune_window:
        raise ValueError(
            f"prune_start {settings.prune_start:g} lies behind the end of prune_window {settings.prune_window:g}; "
            "lower prune_start or raise prune_window"
        )
    if settings.update_end < settings.prune_window:
        raise ValueError(
            f"update_end {settings.update_end:g} lies before the end of prune_window {settings.prune_window:g}; "
            "raise update_end or lower prune_window"
        )

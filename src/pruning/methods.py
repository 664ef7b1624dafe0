"""The methods as settings of the same code. A method fixes some settings and leaves the rest to the configuration."""

from types import MappingProxyType

from .schedule import PruningSchedule

# What `distribution: auto` means where the method does not say otherwise.
DEFAULT_DISTRIBUTION = "global"

METHODS = MappingProxyType(
    {
        "rpg": {"growth": "gradient"},  # gradual pruning, drop and grow, rank term
        "gap": {"growth": "gradient", "rank_weight": 0.0},  # the same without the rank term
        "gmp": {"growth": "gradient", "rank_weight": 0.0, "drop_fraction": 0.0},  # gradual magnitude pruning
        "rigl": {"growth": "gradient", "rank_weight": 0.0, "sparse_start": True, "distribution": ("erk", "uniform")},
        "set": {"growth": "random", "rank_weight": 0.0, "sparse_start": True, "distribution": ("erk", "uniform")},
        "magnitude": {"growth": "gradient", "rank_weight": 0.0, "drop_fraction": 0.0, "one_shot": True},
        "dense": {"rank_weight": 0.0, "drop_fraction": 0.0, "sparsity": 0.0},
    }
)


def fixed_settings(method):
    """Configuration keys that a method fixes, with their values."""
    return {key: METHODS[method][key] for key in ("rank_weight", "drop_fraction", "sparsity") if key in METHODS[method]}


def resolve_distribution(method, distribution):
    """The distribution a method uses when the configuration says `distribution`.

    Raises ValueError if the method cannot work with it.
    """
    allowed = METHODS[method].get("distribution")
    if distribution == "auto":
        return allowed[0] if allowed else DEFAULT_DISTRIBUTION
    if allowed and distribution not in allowed:
        raise ValueError(
            f"distribution {distribution} does not fit method {method}, which needs {' or '.join(allowed)}"
        )
    return distribution


def build_schedule(settings, total_steps):
    """The pruning schedule of PruningSettings over `total_steps`, or None for dense training."""
    if settings.method == "dense":
        return None
    method = METHODS[settings.method]
    density = 1 - settings.sparsity
    interval = settings.update_interval
    if method.get("one_shot"):
        interval = max(1, int(settings.prune_window * total_steps))
    return PruningSchedule(
        total_steps,
        interval,
        density,
        settings.drop_fraction,
        settings.prune_window,
        settings.update_end,
        density if method.get("sparse_start") else 1.0,
        settings.density_schedule,
        settings.prune_start,
    )

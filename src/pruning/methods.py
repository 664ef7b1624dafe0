"""The methods as settings of the same code. A method fixes some settings and leaves the rest to the configuration."""

from types import MappingProxyType

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

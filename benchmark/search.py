"""What the search for a better recipe tries: changes of `config/resnet20_characters.yaml`, chosen on held-out images.

All runs have as many steps, and a fifth of the training images held out, whose top-1 after the last epoch decides; the
test images have no part in it. First one change at a time, then combinations of those that helped.
"""

SPARSITIES = (0.98, 0.99)
SEEDS = range(3)
COMMON = {"method": "rpg", "val_fraction": 0.2}
PLAIN = {"label_smoothing": 0.0}

ONE_CHANGE = {
    "the recipe": {},
    "no label smoothing": PLAIN,
    "weight decay 1e-4": {"weight_decay": 1e-4},
    "lr 0.05": {"lr": 0.05},
    "lr 0.2": {"lr": 0.2},
    "window to 0.5": {"prune_window": 0.5, "update_end": 0.5},
    "window to 0.6": {"prune_window": 0.6, "update_end": 0.6},
    "window to 0.8": {"prune_window": 0.8, "update_end": 0.8},
    "start at 0.15": {"prune_start": 0.15},
    "start at 0.3": {"prune_start": 0.3},
    "cubic": {"density_schedule": "cubic"},
    "alternating, gmp": {"density_schedule": "alternating", "method": "gmp"},
    "alternating": {"density_schedule": "alternating"},
    "interval 5": {"update_interval": 5},
    "interval 20": {"update_interval": 20},
    "drop fraction 0.1": {"drop_fraction": 0.1},
    "drop fraction 0.5": {"drop_fraction": 0.5},
    "erk": {"distribution": "erk"},
    "least layer density 0.005": {"min_layer_density": 0.005},
    "lambda 2": {"rank_weight": 2.0},
    "hyperbolic step 10": {"hyperbolic_step": 10.0},
    "hyperbolic step 100": {"hyperbolic_step": 100.0},
    "moving average 0.95": {"ema_decay": 0.95},
    "nesterov": {"nesterov": True},
}
COMBINED = {}


def search_settings():
    """(name, settings, seed) of every run of the search, seed by seed."""
    changes = {**ONE_CHANGE, **COMBINED}
    return [
        (name, {**COMMON, "sparsity": sparsity, **change}, seed)
        for seed in SEEDS
        for sparsity in SPARSITIES
        for name, change in changes.items()
    ]

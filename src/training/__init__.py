"""One step of training and what goes with it: the compiled step, optimiser, mixed precision, accumulation, averages,
BatchNorm over workers, evaluation, and all that a step changes (`state`). Knows nothing of configurations and
folders.

May import `weights`, `pruning`, `data`, `platform` and the objective `rpg_cell`.
"""

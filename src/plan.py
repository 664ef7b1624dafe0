"""What a run would do, in words and numbers, before it does it (`--dry_run`)."""

import numpy as np
from tabulate import tabulate

from .pruning.pruner import prunable_weights


def format_plan(trainer):
    """The resolved recipe of a Trainer that has not started: settings, schedule by tenths, layers, memory."""
    settings = tabulate(
        [[key, value] for key, value in trainer.config.items() if value != ""], tablefmt="plain", disable_numparse=True
    )
    parts = [settings, _steps(trainer), _curve(trainer), _layers(trainer), _memory(trainer)]
    return "\n\n".join(parts)


def _steps(trainer):
    text = f"{trainer.total_steps:,} steps: {trainer.config.epoch_size} epochs of {trainer.steps_per_epoch:,}"
    schedule = trainer.schedule
    if schedule is None:
        return f"{text}; no pruning"
    updates = schedule.end_step // schedule.interval
    return (
        f"{text}; {updates:,} mask updates, one every {schedule.interval:,} steps up to step {schedule.end_step:,}; "
        f"density {schedule.density:g} is met at update {schedule.updates:,} (step {schedule.last_pruning_step:,})"
    )


def _curve(trainer):
    rows = []
    for tenth in range(11):
        step = trainer.total_steps * tenth // 10
        rate = trainer.rates[min(step, trainer.total_steps - 1)]
        density = 1.0 if trainer.schedule is None else trainer.schedule.density_at(step)
        drop = 0.0 if trainer.schedule is None else trainer.schedule.drop_fraction_at(step)
        rows.append([step, f"{rate:.5f}", f"{density:.5f}", f"{drop:.4f}"])
    return tabulate(rows, ["step", "learning rate", "density", "drop fraction"], disable_numparse=True)


def _layers(trainer):
    weights = prunable_weights(trainer.network)
    masks = [np.ones(w.shape, bool) for w in weights] if trainer.pruner is None else trainer.pruner.masks
    rows = [
        [weight.name, "x".join(map(str, weight.shape)), weight.size, np.count_nonzero(mask)]
        for weight, mask in zip(weights, masks)
    ]
    rows.append(["total", "", sum(weight.size for weight in weights), sum(map(np.count_nonzero, masks))])
    return tabulate(rows, ["layer", "shape", "weights", "kept at start"], disable_numparse=True)


def _memory(trainer):
    parameters = sum(parameter.size for parameter in trainer.network.get_parameters())
    copies = ["weights", "gradients", "momentum"]
    if trainer.pruner is not None:
        copies.append("masks")
    if trainer.config.accumulation_steps > 1:
        copies.append("gradient sums")
    if trainer.average is not None:
        copies.append("averages")
    part = trainer.config.batch_size // trainer.config.accumulation_steps
    return (
        f"memory: {4 * len(copies) * parameters / 2**20:,.1f} MiB for {', '.join(copies)} of {parameters:,} "
        f"parameters (float32); the activations of {part} images at a time come on top"
    )

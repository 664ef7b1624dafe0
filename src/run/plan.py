"""What a run would do, in words and numbers, before it does it (`--dry_run`)."""

import numpy as np
from tabulate import tabulate

from ..pruning.layers import LayerChoice
from ..pruning.pruner import prunable_weights
from .build import rank_weights
from .resume import recipe_hash

STATES = {"adamw": ["first moments", "second moments"]}  # what an optimiser keeps of each parameter


def format_plan(parts):
    """The resolved recipe of the parts of a run: settings, schedule by tenths, layers, memory."""
    settings = tabulate(
        [[key, value] for key, value in parts.config.items() if value != ""], tablefmt="plain", disable_numparse=True
    )
    return "\n\n".join(
        [settings, f"recipe {recipe_hash(parts.config)}", _steps(parts), _curve(parts), _layers(parts), _memory(parts)]
    )


def _steps(parts):
    text = f"{parts.total_steps:,} steps: {parts.config.epoch_size} epochs of {parts.data.steps_per_epoch:,}"
    schedule = parts.schedule
    if schedule is None:
        return f"{text}; no pruning"
    updates = schedule.end_step // schedule.interval - schedule.left_out
    first = (schedule.left_out + 1) * schedule.interval
    text = (
        f"{text}; {updates:,} mask updates, one every {schedule.interval:,} steps from step {first:,} up to step "
        f"{schedule.end_step:,}; density {schedule.density:g} is met at step {schedule.last_pruning_step:,}"
    )
    patterned = parts.pruner.patterned
    return text if patterned is None else f"{text}\n{patterned.describe([w.name for w in parts.pruner.weights])}"


def _curve(parts):
    rows = []
    for tenth in range(11):
        step = parts.total_steps * tenth // 10
        rate = parts.rates[min(step, parts.total_steps - 1)]
        density = 1.0 if parts.schedule is None else parts.schedule.density_at(step)
        drop = 0.0 if parts.schedule is None else parts.schedule.drop_fraction_at(step)
        rows.append([step, f"{rate:.5f}", f"{density:.5f}", f"{drop:.4f}"])
    return tabulate(rows, ["step", "learning rate", "density", "drop fraction"], disable_numparse=True)


def _layers(parts):
    weights = LayerChoice.of(parts.config).weights(parts.network)
    masks = [np.ones(w.shape, bool) for w in weights] if parts.pruner is None else parts.pruner.masks
    rows = [
        [weight.name, "x".join(map(str, weight.shape)), weight.size, np.count_nonzero(mask)]
        for weight, mask in zip(weights, masks)
    ]
    headers = ["layer", "shape", "weights", "kept at start"]
    total = ["total", "", *(sum(column) for column in list(zip(*rows))[2:])]
    if parts.pruner is not None:
        for row, count in zip(rows, parts.pruner.least_counts()):
            row.append(count)
        # The global threshold's share for a layer depends on the weights to come; what it leaves in all does not.
        patterned = parts.pruner.patterned
        thresholds = patterned is None or patterned.rest == "unstructured"
        globally = parts.pruner.allocation.distribution == "global" and thresholds
        headers.append("kept at the end: layer at least, total exactly" if globally else "kept at the end")
        total.append(parts.pruner.target)
    rows.append(total)
    return "\n\n".join([tabulate(rows, headers, disable_numparse=True), *_choice(parts, weights)])


def _choice(parts, weights):
    """Lines on the layers that stay dense, and on those that the rank term is taken of, where there are such."""
    pruned = {weight.name for weight in weights}
    dense = [weight.name for weight in prunable_weights(parts.network) if weight.name not in pruned]
    ranked = rank_weights(parts.config, parts.network)
    return [f"dense, and not counted: {', '.join(dense)}"] * bool(dense) + [
        f"rank term: the mean over {len(ranked)} of these {len(weights)} layers"
    ] * bool(ranked)


def _memory(parts):
    parameters = sum(parameter.size for parameter in parts.network.get_parameters())
    copies = ["weights", "gradients", *STATES.get(parts.config.optimizer, ["momentum"])]
    if parts.pruner is not None:
        copies.append("masks")
    if parts.config.accumulation_steps > 1:
        copies.append("gradient sums")
    if parts.average is not None:
        copies.append("averages")
    images = parts.config.batch_size // parts.config.accumulation_steps
    return (
        f"memory: {4 * len(copies) * parameters / 2**20:,.1f} MiB for {', '.join(copies)} of {parameters:,} "
        f"parameters (float32); the activations of {images} images at a time come on top"
    )

"""Which weights of any network are pruned and take part in the rank term: default rules, and patterns of names."""

import difflib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple, Optional

import mindspore as ms

from ..platform.errors import InputError
from .allocation import total_budget
from .pattern import Pattern, Patterned
from .pruner import TRANSPOSED, convolution_weights, prunable_layers, prunable_weights


class LayerChoice(NamedTuple):
    """Which weights of a network are pruned, and how densely; and which take part in the rank term.

    include: patterns of any trained parameters of two dimensions or more, attention's and the like among them, instead
    of the trained ones of `prunable_weights`; exclude: patterns of weights to leave dense; densities: {pattern: density
    in (0, 1]} of single layers; rank_layers: patterns of the pruned weights that take part in the rank term, instead of
    all convolutions.
    """

    include: Optional[Sequence] = None
    exclude: Sequence = ()
    densities: Optional[Mapping] = None
    rank_layers: Optional[Sequence] = None

    @classmethod
    def of(cls, config):
        """The choice that a configuration makes: patterns in one text, divided by commas."""
        return cls(exclude=_patterns(config.exclude) or (), rank_layers=_patterns(config.rank_layers))

    def weights(self, network):
        """The weights to prune, as Parameters, each once.

        Raises InputError if nothing is left, or a weight is not float32.
        """
        if self.include is None:
            weights = [weight for weight in prunable_weights(network) if weight.requires_grad]
        else:
            weights = matching((p for p in network.trainable_params() if p.ndim > 1), self.include, "include")
        excluded = {weight.name for weight in matching(weights, self.exclude, "exclude")}
        weights = [weight for weight in weights if weight.name not in excluded]
        if not weights:
            raise InputError("RPG: no weight to prune: the network has no trained convolution or dense layer left")
        for weight in weights:
            if weight.dtype != ms.float32:
                raise InputError(f"RPG: {weight.name} is {weight.dtype}; only float32 weights can be pruned")
        return weights

    def rank_weights(self, network, weights):
        """Those of the pruned weights that take part in the rank term. Raises InputError."""
        if self.rank_layers is not None:
            return matching(weights, self.rank_layers, "rank_layers")
        convolutions = {weight.name for weight in convolution_weights(network)}
        return [weight for weight in weights if weight.name in convolutions]

    def densities_by_index(self, weights):
        """Densities of single weights by their index; a later pattern wins. Raises InputError."""
        chosen = {}
        for pattern, density in (self.densities or {}).items():
            if not 0 < density <= 1:
                raise InputError(f"densities: {pattern!r} has {density!r}; a density lies above 0 and is at most 1")
            named = {weight.name for weight in matching(weights, [pattern], "densities")}
            chosen.update({index: density for index, weight in enumerate(weights) if weight.name in named})
        return chosen


def _patterns(text):
    """The patterns in a text, None if it is empty."""
    return [pattern.strip() for pattern in text.split(",")] if text.strip() else None


def depthwise_densities(network, weights, density, least=0.0):
    """Target densities of the depthwise convolutions, by their index among the pruned weights.

    They stay dense, as in RigL's experiments on MobileNet (Evci et al., 2020): a filter is all that leads from one
    channel to the next layer, and its few weights, small beside those of large layers, would be the first to fall to
    one threshold over all. Only where they would take more than half of the weights that the whole network keeps at
    `density`, they share that half. least: density that no layer may fall below.
    """
    groups = {cell.weight.name: getattr(cell, "group", 1) for _, cell in prunable_layers(network)}
    sizes = [weight.size for weight in weights]
    depthwise = [index for index, weight in enumerate(weights) if groups[weight.name] == weight.shape[0] > 1]
    half = total_budget(sizes, density) / 2
    share = min(1.0, half / max(1, sum(sizes[index] for index in depthwise)))
    return dict.fromkeys(depthwise, max(share, least))


def pattern_of(settings, network, weights):
    """The Patterned of `pattern` and `pattern_rest` in PruningSettings, or None where these say no pattern.

    weights: the Parameters that are pruned. Raises ValueError if no layer takes the pattern.
    """
    if not settings.pattern:
        return None
    pattern = Pattern.parse(settings.pattern)
    axes = pattern_axes(pattern, network, weights)
    if not axes:
        raise ValueError(
            f"pattern {pattern}: no layer but the first has input channels that divide by {pattern.of}; take another M"
        )
    return Patterned(pattern, axes, settings.pattern_rest)


def pattern_axes(pattern, network, weights):
    """{index: axis of its input channels} of the weights that take a Pattern.

    These are the layers whose input channels (of one group) divide by M; depthwise convolutions never do. The network's
    first layer never takes it: its inputs are pixels.
    """
    layers = prunable_layers(network)
    cells, first = {cell.weight.name: cell for _, cell in layers}, layers[0][1].weight.name if layers else None
    axes = {}
    for index, weight in enumerate(weights):
        cell = cells.get(weight.name)
        axis, groups = (0, cell.group) if isinstance(cell, TRANSPOSED) else (1, 1)
        if weight.name != first and weight.shape[axis] // groups % pattern.of == 0:
            axes[index] = axis
    return axes


def matching(parameters, patterns, option):
    """Those of the Parameters that a pattern names, in their own order.

    patterns: shell patterns (`*`, `?`, `[ab]`) of a parameter's name, `layer1.0.conv1.weight`, or of its layer's,
    `layer1.0.conv1`. Raises InputError, naming the option, for a pattern that names none of them.
    """
    if isinstance(patterns, str):
        raise InputError(f"{option}: {patterns!r} is one text, not a list of patterns; write [{patterns!r}]")
    parameters, named = list(parameters), set()
    if patterns and not parameters:
        raise InputError(f"{option}: there is no weight to name")
    for pattern in patterns:
        found = {parameter.name for parameter in parameters if _is_named(parameter.name, pattern)}
        if not found:
            raise InputError(f"{option}: no weight is named {pattern!r}{_nearest(pattern, parameters)}")
        named |= found
    return [parameter for parameter in parameters if parameter.name in named]


def _is_named(name, pattern):
    return fnmatchcase(name, pattern) or fnmatchcase(name.rpartition(".")[0], pattern)


def _nearest(pattern, parameters):
    names = [parameter.name for parameter in parameters]
    close = difflib.get_close_matches(pattern, [*names, *(name.rpartition(".")[0] for name in names)], n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; the first of {len(names)} is {names[0]!r}"

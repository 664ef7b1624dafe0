"""Pictures of a run, as PNG files in memory: its curves over steps, and its layers before and after.

Matplotlib's figure objects are used without pyplot, so nothing is kept between pictures and no display is needed. The
same data gives the same bytes. Each picture comes in two widths with the same type size: a browser scales a picture to
the page, and on a telephone the type of a wide one would be too small to read.
"""

import io
import math
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

WIDE, NARROW = 5.6, 3.4  # inches
DPI = {WIDE: 160, NARROW: 240}  # telephones have finer screens
BLUE, VERMILION = "#0072b2", "#d55e00"  # of Okabe and Ito, told apart by the colour-blind as well
GREY = "#9a9a9a"
STYLES = {"before": (GREY, "white"), "B": (VERMILION, "none")}  # line and inside of the marks, else blue
ROW = 0.15  # inches from layer to layer, for a name in legible type
MOST_NAMES = 160  # layers, beyond which not each is named
SETTLED = 0.25  # share of training after which accuracy is to be seen well


class Panel(NamedTuple):
    """One panel of the curves: its title, the metrics it shows by their labels, and a factor on the values."""

    title: str
    labels: dict
    factor: float = 1.0
    logarithmic: bool = False
    focused: bool = False  # on what follows the first epochs


CURVES = (
    Panel("loss", {"train_loss": "training", "loss": "test"}),
    Panel("test accuracy, %", {"top1": "top-1", "top5": "top-5"}, focused=True),
    Panel("density, %", {"density": ""}, 100.0, logarithmic=True),
    Panel("drop fraction", {"drop_fraction": ""}),
    Panel("rank term", {"rank_loss": ""}),
)


def curves_of(metrics):
    """CURVES, with the names of the images that a run's networks were evaluated on."""
    if metrics[0].get("evaluated") != "val":
        return CURVES
    loss, accuracy, *others = CURVES
    return (
        loss._replace(labels={"train_loss": "training", "loss": "held out"}),
        accuracy._replace(title="accuracy on the held-out images, %"),
        *others,
    )


def draw_curves(metrics, width=WIDE):
    """Loss, accuracy, density, drop fraction and rank term over steps, each where there is one; PNG bytes.

    metrics: the lines of metrics.jsonl, one dict per epoch with at least `step`. A value that is None leaves a gap; a
    quantity that has none, and the density of a network that is never pruned, get no panel. width: WIDE or NARROW.
    """
    panels = [panel for panel in curves_of(metrics) if _has_something_to_show(panel, metrics)]
    figure = Figure((width, 1.55 * len(panels) + 0.5), DPI[width], layout="constrained")
    rows = list(figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0])
    steps = [line["step"] for line in metrics]
    size = 2.5 if len(steps) <= 60 else 1.0  # a mark at least: a value between two gaps has no line
    for axes, panel in zip(rows, panels):
        _style(axes)
        curves = [[_number(line.get(key)) * panel.factor for line in metrics] for key in panel.labels]
        for values, label, colour in zip(curves, panel.labels.values(), (BLUE, VERMILION)):
            axes.plot(steps, values, color=colour, label=label, marker="o", markersize=size, linewidth=1.3)
        axes.set_xlim(0, 1.02 * steps[-1])
        if panel.logarithmic:
            _use_log_scale(axes, "y", [value for value in curves[0] if value > 0])
        elif panel.focused:
            axes.set_ylim(*focused_limits(curves))
        _add_title(axes, panel.title, len(panel.labels))
    rows[-1].set_xlabel("step")
    rows[-1].xaxis.set_major_locator(MaxNLocator(8 if width == WIDE else 5, integer=True))
    rows[-1].xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    return _png(figure)


def focused_limits(curves):
    """Limits of an axis of per cent, around what the curves (lists of numbers, NaN for a gap) show once settled.

    That is after a quarter of training: an axis from 0 would hide what tells 95 from 99. What lies lower before is
    cut off.
    """
    settled = [value for values in curves for value in values[int(SETTLED * len(values)) :] if math.isfinite(value)]
    low, high = min(settled, default=0.0), max(settled, default=100.0)
    margin = max(0.08 * (high - low), 0.5)
    return max(low - margin, -0.2 * margin), min(high + margin, 100 + 0.2 * margin)  # a mark at 0 or 100 is seen whole


def draw_layers(reports, width=WIDE):
    """Density, relative rank and relative tail-energy rank of every layer, a row each; PNG bytes.

    reports: one or two lists of `layer_report` dicts by their labels, "before" and "after", or "A" and "B"; width:
    WIDE or NARROW. Layers are matched by name. A layer without weights left has no place on the logarithmic axis: it
    gets a cross at its foot.
    """
    names = list(dict.fromkeys(layer["name"] for layers in reports.values() for layer in layers))
    figure = Figure((width, ROW * min(len(names), MOST_NAMES) + 0.8), DPI[width], layout="constrained")
    density, rank, tail_rank = figure.subplots(1, 3, sharey=True)
    _name_layers(density, names)
    positive = [100 * layer["density"] for layers in reports.values() for layer in layers if layer["density"] > 0]
    _use_log_scale(density, "x", positive, subs=(1.0,))
    foot = density.get_xlim()[0]
    for label, layers in reports.items():
        rows = {layer["name"]: layer for layer in layers}
        _plot_layers((density, rank, tail_rank), [rows.get(name) for name in names], label, foot)
    for axes, title in ((density, "density, %"), (rank, "rank"), (tail_rank, "tail rank")):
        _style(axes)
        axes.set_title(title, fontsize=9, fontweight="bold")
        axes.tick_params(labeltop=True)
    for axes in (rank, tail_rank):
        axes.set_xlim(0, 1.06)
        axes.set_xticks((0, 0.5, 1), ("0", ".5", "1"))
        axes.tick_params(left=False)
    if len(reports) > 1:
        handles, labels = rank.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=2, frameon=False, fontsize=8)
    return _png(figure)


def draw_sensitivity(result):
    """Scores in per cent after pruning each layer alone, a row each and a column per sparsity; PNG bytes.

    result: of `layer_sensitivity`. The darker, the further below the score of the network as it is.
    """
    layers, sparsities = result["layers"], result["sparsities"]
    figure = Figure((WIDE, ROW * min(len(layers), MOST_NAMES) + 0.9), DPI[WIDE], layout="constrained")
    axes = figure.subplots()
    scores = [layer["scores"] for layer in layers]
    lost = [[result["score"] - score for score in row] for row in scores]
    axes.imshow(lost, cmap="Oranges", aspect="auto", vmin=0, vmax=max(1.0, result["score"]))
    _name_layers(axes, [layer["name"] for layer in layers])
    axes.set_xticks(range(len(sparsities)), [f"{100 * sparsity:g} %" for sparsity in sparsities])
    axes.tick_params(labelsize=8, labeltop=True, length=0)
    axes.spines[:].set_visible(False)
    if len(layers) <= MOST_NAMES:
        for row, (values, below) in enumerate(zip(scores, lost)):
            for column, (value, drop) in enumerate(zip(values, below)):
                colour = "white" if drop > 0.6 * max(1.0, result["score"]) else "black"
                axes.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=6, color=colour)
    axes.set_title(
        f"top-1, %, with one layer pruned; as it is {result['score']:.2f}", loc="left", fontsize=9, fontweight="bold"
    )
    return _png(figure)


def _plot_layers(panels, layers, label, foot):
    """The reports of some layers, None where there is none; foot: where the crosses of the empty ones stand."""
    colour, face = STYLES.get(label, (BLUE, BLUE))
    for axes, values in zip(panels, zip(*map(_heights, layers))):
        axes.plot(
            values, range(len(layers)), color=colour, label=label, linewidth=0.8,
            marker="o", markersize=3.5, markerfacecolor=face,
        )  # fmt: skip
    empty = [index for index, layer in enumerate(layers) if layer and layer["density"] == 0]
    (crosses,) = panels[0].plot([foot] * len(empty), empty, "x", color=colour, clip_on=False, markersize=5)
    crosses.set_in_layout(False)  # they may stand over the edge of the panel


def _heights(layer):
    """Where a layer stands in the three panels; NaN, which is not drawn, for a density of 0 and for no layer."""
    if layer is None:
        return math.nan, math.nan, math.nan
    ranks = (layer[key] / layer["max_rank"] for key in ("rank", "tail_rank"))
    return (100 * layer["density"] or math.nan, *ranks)


def _has_something_to_show(panel, metrics):
    values = [line.get(key) for line in metrics for key in panel.labels]
    return any(value is not None and not (panel.logarithmic and value in (0.0, 1.0)) for value in values)


def _number(value):
    return math.nan if value is None else value


def _style(axes):
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _add_title(axes, title, curves=1):
    """The title above a panel on the left, the legend of several curves on the right, where no curve can be."""
    axes.set_title(title, loc="left", fontsize=9, fontweight="bold")
    if curves > 1:
        axes.legend(
            loc="lower right", bbox_to_anchor=(1.01, 0.97), ncols=curves, frameon=False, fontsize=8, borderaxespad=0.2
        )


def _use_log_scale(axes, which, values, subs=(1.0, 2.0, 5.0)):
    """A logarithmic axis, `which` is x or y, around positive `values`, with plain numbers and not too many of them.

    subs: the multiples of powers of ten that are named, unless the range is large.
    """
    low, high = min(values, default=1.0), max(values, default=100.0)
    axes.set(**{f"{which}scale": "log", f"{which}lim": (low / 1.4, high * 1.4)})
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(LogLocator(subs=subs if high / low < 200 else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.minorticks_off()


def _name_layers(axes, names):
    """One row per layer, the first on top, with its name; of a very long network every second is named, and so on."""
    every = math.ceil(len(names) / MOST_NAMES)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(0, len(names), every), [name.removesuffix(".weight") for name in names[::every]])
    for text in axes.get_yticklabels():
        text.set_parse_math(False)


def _png(figure):
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})  # it would name matplotlib's version
    return file.getvalue()

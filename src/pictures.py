"""Pictures of a run, as PNG files in memory: its curves over steps, and its layers before and after.

Matplotlib's figure objects are used without pyplot, so nothing is kept between pictures and no display is needed. The
same data gives the same bytes. The shape suits a page that is also read on a telephone: narrow, panels one below the
other.
"""

import io
import math
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

WIDTH = 5.6  # inches
DPI = 160
BLUE, VERMILION = "#0072b2", "#d55e00"  # of Okabe and Ito, told apart by the colour-blind as well
GREY = "#9a9a9a"
STYLES = {"before": (GREY, "white"), "B": (VERMILION, "none")}  # line and inside of the marks, else blue
MOST_NAMES = 54  # layer names that fit side by side in the smallest legible type


class Panel(NamedTuple):
    """One panel of the curves: its title, the metrics it shows by their labels, and a factor on the values."""

    title: str
    labels: dict
    factor: float = 1.0
    logarithmic: bool = False


CURVES = (
    Panel("loss", {"train_loss": "training", "loss": "test"}),
    Panel("accuracy on the test data, %", {"top1": "top-1", "top5": "top-5"}),
    Panel("density, %", {"density": ""}, 100.0, logarithmic=True),
    Panel("drop fraction, at the last mask update of an epoch", {"drop_fraction": ""}),
    Panel("rank term, at the last mask update of an epoch", {"rank_loss": ""}),
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


def draw_curves(metrics):
    """Loss, accuracy, density, drop fraction and rank term over steps, each where there is one; PNG bytes.

    metrics: the lines of metrics.jsonl, one dict per epoch with at least `step`. A value that is None leaves a gap; a
    quantity that has none, and the density of a network that is never pruned, get no panel.
    """
    panels = [panel for panel in curves_of(metrics) if _has_something_to_show(panel, metrics)]
    figure, rows = _new_figure([1.55] * len(panels))
    steps = [line["step"] for line in metrics]
    size = 2.5 if len(steps) <= 60 else 1.0  # a mark at least: a value between two gaps has no line
    for axes, panel in zip(rows, panels):
        for (key, label), colour in zip(panel.labels.items(), (BLUE, VERMILION)):
            values = [_number(line.get(key)) * panel.factor for line in metrics]
            axes.plot(steps, values, color=colour, label=label, marker="o", markersize=size, linewidth=1.3)
        axes.set_xlim(0, 1.02 * steps[-1])
        if panel.logarithmic:
            _use_log_scale(axes, [value for value in values if value > 0])
        _add_title(axes, panel.title, len(panel.labels))
    rows[-1].set_xlabel("step")
    rows[-1].xaxis.set_major_locator(MaxNLocator(8, integer=True))
    rows[-1].xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    return _png(figure)


def draw_layers(reports):
    """Density, relative rank and relative tail-energy rank of every layer; PNG bytes.

    reports: one or two lists of `layer_report` dicts by their labels, "before" and "after", or "A" and "B". Layers are
    matched by name. A layer without weights left has no place on the logarithmic axis: it gets a cross at its foot.
    """
    names = list(dict.fromkeys(layer["name"] for layers in reports.values() for layer in layers))
    figure, (density, rank, tail_rank) = _new_figure([2.0, 1.6, 1.6], names=True)
    positive = [100 * layer["density"] for layers in reports.values() for layer in layers if layer["density"] > 0]
    _use_log_scale(density, positive)
    foot = density.get_ylim()[0]
    for label, layers in reports.items():
        colour, face = STYLES.get(label, (BLUE, BLUE))
        rows = {layer["name"]: layer for layer in layers}
        shown = [rows.get(name) for name in names]
        series = {
            density: [100 * row["density"] or math.nan if row else math.nan for row in shown],
            rank: [row["rank"] / row["max_rank"] if row else math.nan for row in shown],
            tail_rank: [row["tail_rank"] / row["max_rank"] if row else math.nan for row in shown],
        }
        for axes, values in series.items():
            axes.plot(
                range(len(names)), values, color=colour, label=label, linewidth=0.8,
                marker="o", markersize=3.5 if len(names) <= MOST_NAMES else 2.2, markerfacecolor=face,
            )  # fmt: skip
        empty = [index for index, row in enumerate(shown) if row and row["density"] == 0]
        (crosses,) = density.plot(empty, [foot] * len(empty), "x", color=colour, clip_on=False, markersize=5)
        crosses.set_in_layout(False)  # they may stand over the edge of the panel
    _add_title(density, "density, %", len(reports))
    _add_title(rank, "rank, as a share of the largest possible")
    _add_title(tail_rank, "tail-energy rank, as a share of the largest possible")
    for axes in (rank, tail_rank):
        axes.set_ylim(0, 1.06)
    _name_layers(tail_rank, names)
    return _png(figure)


def _has_something_to_show(panel, metrics):
    values = [line.get(key) for line in metrics for key in panel.labels]
    return any(value is not None and not (panel.logarithmic and value in (0.0, 1.0)) for value in values)


def _number(value):
    return math.nan if value is None else value


def _new_figure(heights, names=False):
    """A figure with one panel per height (inches), and room for layer names below if `names`."""
    figure = Figure((WIDTH, sum(heights) + (1.5 if names else 0.5)), DPI, layout="constrained")
    grid = figure.subplots(len(heights), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights})
    rows = list(grid[:, 0])
    for axes in rows:
        axes.grid(True, color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    return figure, rows


def _add_title(axes, title, curves=1):
    """The title above a panel on the left, the legend of several curves on the right, where no curve can be."""
    axes.set_title(title, loc="left", fontsize=9, fontweight="bold")
    if curves > 1:
        axes.legend(
            loc="lower right", bbox_to_anchor=(1.01, 0.97), ncols=curves, frameon=False, fontsize=8, borderaxespad=0.2
        )


def _use_log_scale(axes, values):
    """A logarithmic axis around positive `values`, with plain numbers and not too many of them."""
    low, high = min(values, default=1.0), max(values, default=100.0)
    axes.set_yscale("log")
    axes.set_ylim(low / 1.4, high * 1.4)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 200 else (1.0,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.minorticks_off()


def _name_layers(axes, names):
    """Name every layer below the axis, or every second and so on of a long network."""
    every = math.ceil(len(names) / MOST_NAMES)
    shown = names[::every]
    size = min(8.0, 0.85 * 72 * 4.9 / len(shown))  # points: 4.9 inches are shared by the names
    axes.set_xlim(-0.7, len(names) - 0.3)
    axes.set_xticks(range(0, len(names), every))
    axes.set_xticklabels([name.removesuffix(".weight") for name in shown], rotation=90, fontsize=size)
    for text in axes.get_xticklabels():
        text.set_parse_math(False)


def _png(figure):
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})  # it would name matplotlib's version
    return file.getvalue()

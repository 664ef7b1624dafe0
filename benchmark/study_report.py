"""Table and figures of the comparison study, from its lines of results alone."""

from collections import defaultdict
from itertools import chain

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats
from tabulate import tabulate

BASELINE = "gap"  # the same pruning without the rank term: what every other line is paired with
RECIPE = (BASELINE, "rpg", "rpg, every step")
COLUMNS = (
    ("last top-1 %", lambda result: result["last"]["top1"], 2),
    ("best top-1 %", lambda result: result["best"]["top1"], 2),
    ("relative rank", lambda result: result["average_relative_rank"], 3),
    ("tail-energy rank", lambda result: result["average_relative_tail_rank"], 3),
)
HEADER = """\
Made by `python benchmark/compare_methods.py` from `results.jsonl`: mean +- standard deviation over n seeds.
Weights left are counted in the trained network. `last` is the network after the last epoch; `best` is the best
epoch since the target sparsity was reached, chosen on the test images and therefore slightly optimistic. The
difference is that of the last top-1 to `gap`, paired over seeds, with its 95 % confidence interval (Student's t).
"""


def write_report(results, folder):
    """Write tables.md, accuracy.png and rank.png into a folder."""
    sections = [sections_of(data, _where(results, data=data)) for data in _unique(r["data"] for r in results)]
    (folder / "tables.md").write_text("\n".join([HEADER, *chain(*sections)]), encoding="utf-8")
    methods = _where(results, part="methods")
    draw(methods, "top-1 % after the last epoch", lambda result: result["last"]["top1"], folder / "accuracy.png")
    draw(methods, "average tail-energy rank, relative", COLUMNS[3][1], folder / "rank.png")


def sections_of(data, results):
    """Lines of Markdown: the tables of one data set, whose results are given."""
    text, base = [], _where(results, name=BASELINE)
    parts = ("methods", "ablation", "pattern", "transformer")
    methods, ablation, pattern, transformer = (_where(results, part=part) for part in parts)
    if methods:
        text += [f"## {data}: last top-1 % at a glance", "", summary(methods), ""]
        text += [f"## {data}: methods", "", table(methods, base), ""]
    if ablation:  # beside what the recipe itself gives
        sparsities = {at(result) for result in ablation}
        recipe = [result for result in results if result["name"] in RECIPE and at(result) in sparsities]
        text += [f"## {data}: ablation", "", table(recipe + ablation, base), ""]
    if pattern:
        text += [f"## {data}: N:M patterns, last top-1 % at a glance", "", summary(pattern), ""]
        text += [f"## {data}: N:M patterns", "", table(pattern, base), ""]
    if transformer:
        text += [f"## {data}: last top-1 % at a glance", "", summary(transformer), ""]
        text += [f"## {data}: methods", "", table(transformer, base), ""]
    return text


def at(result):
    """What a run was made for: a sparsity, 0 for dense training; or an N:M pattern, as text."""
    return result["settings"].get("pattern") or result["settings"].get("sparsity", 0.0)


def shown(target):
    """What `at` gives, for a table."""
    return target if isinstance(target, str) else f"{100 * target:g}"


def groups(results):
    """Lines of one configuration together: (sparsity, name) -> results, by sparsity, then in order of appearance."""
    together = defaultdict(list)
    for result in results:
        together[at(result), result["name"]].append(result)
    order = list(together)
    return {key: together[key] for key in sorted(order, key=lambda key: (key[0], order.index(key)))}


def summary(results):
    """Last top-1 by method (row) and sparsity (column), as Markdown."""
    cells = {key: spread([member["last"]["top1"] for member in members], 2) for key, members in groups(results).items()}
    sparsities = sorted({sparsity for sparsity, _ in cells})
    rows = [
        [name, *(cells.get((sparsity, name), "") for sparsity in sparsities)] for name in _unique(n for _, n in cells)
    ]
    unit = "" if isinstance(sparsities[0], str) else " %"
    headers = ["method", *(f"{shown(sparsity)}{unit}" for sparsity in sparsities)]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def table(results, base):
    """One row per configuration, as Markdown."""
    rows = []
    for (sparsity, name), members in groups(results).items():
        left = {round((1 - member["sparsity"]) * 100, 3) for member in members}
        row = [shown(sparsity), name, len(members), " ".join(f"{share:g}" for share in sorted(left))]
        for _, value, digits in COLUMNS:
            row.append(spread([value(member) for member in members], digits))
        rows.append([*row, paired(members, [line for line in base if at(line) == sparsity])])
    kind = "pattern" if all(isinstance(at(result), str) for result in results) else "sparsity %"
    headers = [kind, "method", "n", "weights left %", *(title for title, _, _ in COLUMNS), "difference to gap"]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def spread(values, digits):
    """Mean +- standard deviation of a sample."""
    deviation = f" +- {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"


def paired(members, base):
    """Mean difference of last top-1 to the baseline with the same seeds, with its 95 % interval."""
    reference = {line["seed"]: line["last"]["top1"] for line in base}
    differences = [
        line["last"]["top1"] - reference[line["seed"]]
        for line in members
        if line["seed"] in reference and line["name"] != BASELINE
    ]
    if len(differences) < 2:
        return ""
    half = stats.sem(differences) * stats.t.ppf(0.975, len(differences) - 1)
    return f"{np.mean(differences):+.2f} +- {half:.2f}"


def draw(results, title, value, path):
    """One panel per data set: a value over the sparsity, one line per method with the spread over seeds."""
    names = _unique(result["data"] for result in results)
    figure = Figure(figsize=(5.5 * max(len(names), 1), 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, data in zip(figure.subplots(1, max(len(names), 1), squeeze=False)[0], names):
        _draw_panel(axes, _where(results, data=data), value)
        axes.set(title=data, xlabel="sparsity, %", ylabel=title)
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=120, metadata={"Software": None})


def _draw_panel(axes, results, value):
    grouped = groups(results)
    sparsities = sorted({sparsity for sparsity, _ in grouped if sparsity})
    methods = _unique(name for sparsity, name in grouped if sparsity)
    for index, method in enumerate(methods):
        beside = np.arange(len(sparsities)) + 0.05 * (index - (len(methods) - 1) / 2)  # else they hide each other
        samples = [[value(m) for m in grouped.get((sparsity, method), [])] for sparsity in sparsities]
        axes.errorbar(beside, *_means_and_deviations(samples), marker="o", capsize=3, label=method)
    dense = [value(result) for result in _where(results, name="dense")]
    if dense:
        axes.axhline(np.mean(dense), color="grey", linestyle="--", label="dense")
    axes.set_xticks(range(len(sparsities)), [f"{100 * sparsity:g}" for sparsity in sparsities])


def _means_and_deviations(samples):
    means = [np.mean(sample) if sample else np.nan for sample in samples]
    return means, [np.std(sample, ddof=1) if len(sample) > 1 else 0 for sample in samples]


def _where(results, **values):
    """Those of the results that have these values."""
    return [result for result in results if all(result[key] == value for key, value in values.items())]


def _unique(values):
    return list(dict.fromkeys(values))

"""What the report of a run, or of one or two checkpoints, says: figures, pictures and tables from plain data."""

import json
from pathlib import Path

import yaml

from ..config.keys import Config
from ..platform.errors import InputError
from .page import LAYERS, Card, Page, Picture, Table, write_report
from .pictures import NARROW, draw_curves, draw_layers

NONE = "–"
SUMMARY = (  # of a comparison: what it is called, and how it is found in an evaluation
    ("top-1 accuracy, %", lambda e: number(e["top1"], ".2f")),
    ("top-5 accuracy, %", lambda e: number(e["top5"], ".2f")),
    ("loss", lambda e: number(e["loss"], ".4f")),
    ("test images", lambda e: number(e["images"], ",")),
    ("sparsity, %", lambda e: number(100 * e["sparsity"], ".4f")),
    ("weights left", lambda e: number(e["nonzeros"], ",")),
    ("weights", lambda e: number(e["weights"], ",")),
    ("average relative rank", lambda e: number(e["average_relative_rank"], ".3f")),
    ("average relative tail-energy rank", lambda e: number(e["average_relative_tail_rank"], ".3f")),
)
LAYER_COLUMNS = (  # what training changes of a layer
    ("density, %", lambda layer: number(100 * layer["density"], ".2f")),
    ("non-zeros", lambda layer: number(layer["nonzeros"], ",")),
    ("rank", lambda layer: number(layer["rank"], ",")),
    ("tail-energy rank", lambda layer: number(layer["tail_rank"], ",")),
)
FIXED_COLUMNS = (  # and what it leaves
    ("largest rank", lambda layer: number(layer["max_rank"], ",")),
    ("weights", lambda layer: number(layer["weights"], ",")),
    ("shape", lambda layer: "x".join(map(str, layer["shape"]))),
)
EPOCH_COLUMNS = (
    ("epoch", "epoch", ","),
    ("step", "step", ","),
    ("learning rate", "lr", ".5f"),
    ("training loss", "train_loss", ".4f"),
    ("test loss", "loss", ".4f"),
    ("top-1, %", "top1", ".2f"),
    ("top-5, %", "top5", ".2f"),
    ("density", "density", ".5f"),
    ("drop fraction", "drop_fraction", ".4f"),
    ("rank term", "rank_loss", ".4f"),
    ("images/s", "images_per_second", ",.0f"),
)


def number(value, style):
    """A number in a format of `format()`; a dash where there is none."""
    return NONE if value is None else format(value, style)


def write_run_report(path):
    """Draw and describe a finished run from the files in its output folder; returns the paths written.

    Raises OSError, or ValueError or KeyError if the files are not those of a run.
    """
    config, metrics, result = (
        (Path(path) / name).read_text(encoding="utf-8") for name in ("config.yaml", "metrics.jsonl", "result.json")
    )
    metrics = [json.loads(line) for line in metrics.splitlines()]
    config, result = yaml.safe_load(config), json.loads(result)
    return write_report(path, describe_run(config, metrics, result))


def write_evaluation_report(folder, evaluations, configs):
    """Draw and describe one checkpoint, or two side by side, in an open folder; returns the paths written.

    evaluations: scores and sparsity report of each in one dict; configs: of their training. Raises InputError.
    """
    if len(evaluations) == 1:
        page = describe_checkpoint(evaluations[0], configs[0])
    else:
        page = describe_comparison(evaluations, configs)
    try:
        return write_report(folder, page)
    except OSError as error:
        raise InputError(f"report: cannot write to {folder}: {error.strerror}") from None


def describe_run(config, metrics, result):
    """The Page of a run: config: its settings; metrics: lines of metrics.jsonl; result: of result.json."""
    initial = result.get("initial")
    reports = {"before": initial["layers"]} if initial else {}
    reports["after"] = result["layers"]
    caption = (
        "One point per epoch. The axis of accuracy begins with what was reached after a quarter of training; drop "
        "fraction and rank term are those of the last mask update of an epoch."
    )
    pictures = draw_curves(metrics), draw_curves(metrics, NARROW)
    curves = Picture("curves.png", *pictures, _describe_curves(metrics), caption)
    return Page(
        _title(config),
        [f"Output of train.py in {config['output_path']}"],
        [curves, _layer_picture(reports)],
        [
            _layer_table(reports),
            _settings({"value": config}),
            Table("Epochs", *_epoch_rows(metrics), caption="The lines of metrics.jsonl.", folded=True),
        ],
        cards=_run_cards(metrics, result, initial),
    )


def describe_training(settings, lines, report):
    """The Page of a training of one's own: settings of its pruning; lines of its History; report on its weights now."""
    pictures = [_layer_picture({"now": report["layers"]})]
    if lines:
        caption = "Drop fraction and rank term are those of the mask update before."
        drawn = draw_curves(lines), draw_curves(lines, NARROW)
        pictures.insert(0, Picture("curves.png", *drawn, _describe_curves(lines), caption))
    tables = [_layer_table({"now": report["layers"]}), _settings({"value": settings})]
    if lines:
        tables.append(Table("Steps", *_epoch_rows(lines), folded=True))
    return Page(_title(settings), ["A training through RPG"], pictures, tables, cards=_sparsity_cards(report, None))


def describe_checkpoint(evaluation, config):
    """The Page of one checkpoint; see `write_evaluation_report`."""
    reports = {"after": evaluation["layers"]}
    scores = [
        _percent_card("top-1 accuracy", evaluation["top1"], f"{evaluation['images']:,} test images"),
        _percent_card("top-5 accuracy", evaluation["top5"], f"loss {evaluation['loss']:.4f}"),
    ]
    return Page(
        _title(config),
        [f"Checkpoint {evaluation['ckpt']}"],
        [_layer_picture(reports)],
        [_layer_table(reports), _settings({"value": config})],
        cards=(*scores, *_sparsity_cards(evaluation, None)),
    )


def describe_comparison(evaluations, configs):
    """The Page of two checkpoints side by side, A and B; see `write_evaluation_report`."""
    reports = {label: evaluation["layers"] for label, evaluation in zip("AB", evaluations)}
    rows = [[name, *(show(evaluation) for evaluation in evaluations)] for name, show in SUMMARY]
    return Page(
        "Two checkpoints compared",
        [f"{label}: {_title(config)}, {e['ckpt']}" for label, config, e in zip("AB", configs, evaluations)],
        [_layer_picture(reports)],
        [_layer_table(reports), _settings(dict(zip("AB", configs)))],
        summary=Table("Scores", ["", "A", "B"], rows),
    )


def _title(config):
    pruning = (
        "dense" if config["method"] == "dense" else f"{config['method']}, {100 * config['sparsity']:g}\u00a0% sparsity"
    )
    trained = f"{config['model']} on {config['dataset']}" if "model" in config else "Own network"
    return f"{trained}: {pruning}"


def _run_cards(metrics, result, initial):
    best, last = result["best"], result["last"]
    return (
        _percent_card("top-1 accuracy, best", best["top1"], f"epoch {best['epoch']}; top-5 {best['top5']:.2f}\u00a0%"),
        _percent_card("top-1 accuracy, last", last["top1"], f"epoch {last['epoch']}; top-5 {last['top5']:.2f}\u00a0%"),
        *_sparsity_cards(result, initial),
        Card("time", _duration(result["seconds"]), f"{metrics[-1]['images_per_second']:,.0f} images/s in the end"),
    )


def _sparsity_cards(report, initial):
    ranks = []
    for name, key in (("relative rank", "average_relative_rank"), ("tail-energy rank", "average_relative_tail_rank")):
        note = "mean over layers" + (f"; before training {initial[key]:.3f}" if initial else "")
        ranks.append(Card(name, f"{report[key]:.3f}", note))
    left = f"{report['nonzeros']:,} of {report['weights']:,} weights left"
    return (Card("sparsity", f"{100 * report['sparsity']:.2f}\u00a0%", left), *ranks)


def _percent_card(name, value, note):
    return Card(name, f"{number(value, '.2f')}\u00a0%", note)


def _duration(seconds):
    if seconds < 100:
        return f"{seconds:.0f}\u00a0s"
    return f"{seconds / 60:.1f}\u00a0min" if seconds < 6000 else f"{seconds / 3600:,.1f}\u00a0h"


def _layer_picture(reports):
    caption = (
        "The rank is that of the layer's matrix with one row per output channel; the tail-energy rank (tail rank) is "
        "the number of its largest singular values that hold all energy but about the share tail_energy; both as a "
        "share of the largest possible rank. A cross: no weight is left."
    )
    pictures = draw_layers(reports), draw_layers(reports, NARROW)
    return Picture(LAYERS, *pictures, _describe_layers(reports), caption)


def _describe_curves(metrics):
    first, last = metrics[0], metrics[-1]
    parts = [f"Curves over {last['step']:,} steps."]
    named = (("Training loss", "train_loss", 1, ".3f"), ("Top-1 accuracy in per cent", "top1", 1, ".2f"))
    for name, key, factor, style in (*named, ("Density in per cent", "density", 100, ".2f")):
        if first.get(key) is not None and last.get(key) is not None:
            parts.append(f"{name} from {factor * first[key]:{style}} to {factor * last[key]:{style}}.")
    return " ".join(parts)


def _describe_layers(reports):
    parts = ["Density, rank and tail-energy rank of every layer; the table of layers has the numbers."]
    for label, layers in reports.items():
        name = f"{label.capitalize()}: " if len(reports) > 1 else ""
        densities = [100 * layer["density"] for layer in layers]
        shares = [layer["rank"] / layer["max_rank"] for layer in layers]
        parts.append(
            f"{name}{len(layers)} layers: densities from {min(densities):.2f} to {max(densities):.2f} per cent, "
            f"ranks from {min(shares):.2f} to {max(shares):.2f} of the largest possible."
        )
    return " ".join(parts)


def _layer_table(reports):
    """One row per layer name of any of the reports (label -> layers), the changing columns once per report."""
    found = [{layer["name"]: layer for layer in layers} for layers in reports.values()]
    names = dict.fromkeys(name for layers in found for name in layers)
    rows = [[name, *_layer_cells([layers.get(name) for layers in found])] for name in names]
    labels = list(reports) if len(reports) > 1 else [""]
    changing = [f"{name} {label}".strip() for name, _ in LAYER_COLUMNS for label in labels]
    return Table("Layers", ["layer", *changing, *(name for name, _ in FIXED_COLUMNS)], rows)


def _layer_cells(versions):
    """The cells of a layer's row; versions: the layer as each report has it, None where it is missing."""
    changing = [NONE if layer is None else show(layer) for _, show in LAYER_COLUMNS for layer in versions]
    known = [layer for layer in versions if layer]
    return changing + [_same(known, show) for _, show in FIXED_COLUMNS]


def _same(layers, show):
    """What is common to the versions of a layer; both where they differ."""
    return " / ".join(dict.fromkeys(show(layer) for layer in layers))


def _settings(configs):
    """All settings, with their meaning; rows that differ between two configurations (label -> dict) are marked."""
    rows, marked = [], []
    for key in dict.fromkeys(key for config in configs.values() for key in config):
        values = [_setting(config.get(key, NONE)) for config in configs.values()]
        if len(set(values)) > 1:
            marked.append(len(rows))
        field = Config.model_fields.get(key)
        rows.append([key, *values, field.description if field else ""])
    headers = ["setting", *configs, "meaning"]
    caption = "Settings that differ are marked." if len(configs) > 1 else ""
    return Table("Settings", headers, rows, tuple(range(1, len(headers))), tuple(marked), caption)


def _setting(value):
    """A value as a YAML file has it."""
    return value if isinstance(value, str) else json.dumps(value)


def _epoch_rows(metrics):
    """Headers and rows of the table of epochs; columns that have no value at all are left out."""
    columns = [column for column in EPOCH_COLUMNS if any(line.get(column[1]) is not None for line in metrics)]
    rows = [[number(line.get(key), style) for _, key, style in columns] for line in metrics]
    return [name for name, _, _ in columns], rows

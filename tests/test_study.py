"""The comparison study: its data, its list of runs, restarting it, and its report."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmark"))

import compare_methods
import make_characters
import study_report

from src.config.files import read_yaml
from src.config.keys import resolve
from src.data.batches import Batches, Batching, Source

STUDY = compare_methods.STUDY


@pytest.fixture(scope="module")
def characters(tmp_path_factory):
    """A small version of the data set, as the script writes it."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make_characters, "NUM_SAMPLES", {"train": 144, "test": 72})
        make_characters.write(folder)
        first = (folder / "characters" / "train.bin").read_bytes()
        assert make_characters.make("train").tobytes() == first
    return folder


def test_characters_are_balanced_and_differ_between_splits(characters):
    records = {
        split: np.fromfile(characters / "characters" / f"{split}.bin", np.uint8).reshape(-1, 769)
        for split in ("train", "test")
    }
    assert np.bincount(records["train"][:, 0]).tolist() == [4] * 36
    assert np.bincount(records["test"][:, 0]).tolist() == [2] * 36
    everything = np.concatenate([records["train"], records["test"]])[:, 1:]
    assert len(np.unique(everything, axis=0)) == 216


def test_characters_are_read_by_the_loader_of_cifar(characters):
    data = Batches(Source("characters", str(characters)), "train", Batching(48)).epoch()
    images, labels = next(data.create_tuple_iterator(output_numpy=True))
    assert images.shape == (48, 3, 16, 16)
    assert images.dtype == np.float32
    assert 0 <= labels.min() <= labels.max() < 36


def test_the_same_character_is_drawn_in_different_ways():
    random = np.random.default_rng(0)
    first, second = (make_characters.render("R", random).astype(float) for _ in range(2))
    assert np.abs(first - second).mean() > 10


def test_every_run_is_another_one():
    runs = [run for data in compare_methods.CONFIGS for run in compare_methods.main_part(data)]
    assert len({run.key for run in runs}) == len(runs) == (1 + 7 * 3) * (5 + 3)
    assert {run.settings.get("sparsity") for run in runs} == {None, 0.95, 0.98, 0.99}


def test_the_runs_of_the_patterns():
    runs = [run for data in compare_methods.CONFIGS for run in compare_methods.pattern_part(data)]
    assert len({run.key for run in runs}) == len(runs) == 2 * 2 * 4 * 5
    found = {(run.data, run.name, run.settings["method"], run.settings["pattern"], run.seed) for run in runs}
    methods = ("magnitude", "gmp", "gap", "rpg")
    patterns = ("2:4", "1:4")
    assert found == {
        (d, m, m, pattern, s)
        for d in compare_methods.CONFIGS
        for m in methods
        for pattern in patterns
        for s in range(5)
    }
    for run in runs:  # each is one that train.py takes, and the pattern says how many weights are left
        recipe = read_yaml(compare_methods.CONFIGS[run.data])
        config = resolve(recipe, {key: str(value) for key, value in run.settings.items()})
        assert config.sparsity == {"2:4": 0.5, "1:4": 0.75}[run.settings["pattern"]]


def test_the_runs_of_the_transformer_and_their_tables():
    """Five of each; they are reported whatever else has been run, each paired with its own `gap`."""
    runs = compare_methods.transformer_part()
    dense = {("dense", "dense", None, seed) for seed in range(5)}
    pruned = {(m, m, s, seed) for m in ("gmp", "gap", "rpg") for s in (0.8, 0.9) for seed in range(5)}
    found = [(run.name, run.settings["method"], run.settings.get("sparsity"), run.seed) for run in runs]
    assert len(found) == 35
    assert set(found) == dense | pruned
    for run in runs:  # each is one that train.py takes
        config = resolve(read_yaml(compare_methods.RECIPES[run.data]), {k: str(v) for k, v in run.settings.items()})
        assert (config.model, config.dataset) == ("mindcv/vit", "characters")
        assert config.rank_layers == "blocks.*"
    former = [result_of(run, 70.0) for run in compare_methods.main_part("characters")]
    tops = {"dense": 60.0, "gmp": 50.0, "gap": 52.0, "rpg": 53.0}
    lines = compare_methods.reported([result_of(run, tops[run.name] + run.seed % 2) for run in runs], former)
    assert len(lines) == len(former) + 35
    data = compare_methods.TRANSFORMER
    text = study_report.sections_of(data, [line for line in lines if line["data"] == data])
    first, second = text.index(f"## {data}: last top-1 % at a glance") + 2, text.index(f"## {data}: methods") + 2
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text[first].splitlines()]
    assert rows[0] == ["method", "0 %", "80 %", "90 %"]
    assert [row[0] for row in rows[2:]] == ["dense", "gmp", "gap", "rpg"]
    assert rows[2][1:] == ["60.40 +- 0.55", "", ""]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text[second].splitlines()]
    assert rows[-1][:3] == ["90", "rpg", "5"]
    assert rows[-1][-1] == "+1.00 +- 0.00"
    assert study_report.sections_of("characters", former) == study_report.sections_of(
        "characters", [line for line in lines if line["data"] == "characters"]
    )


def test_parts_and_data_are_chosen():
    both, parts = list(compare_methods.CONFIGS), list(compare_methods.PARTS)
    runs = compare_methods.study(both, parts)
    assert len({run.key for run in runs}) == len(runs)
    assert [run.part for run in runs] == ["methods"] * 176 + ["ablation"] * 18 + ["pattern"] * 80 + ["transformer"] * 35
    assert [run.data for run in runs[:66]] == ["characters"] * 66  # the harder data first
    assert compare_methods.study(["digits"], ["pattern"]) == compare_methods.pattern_part("digits")
    assert compare_methods.study(["digits"], ["ablation"]) == []


def result_of(run, top1):
    scores = {"top1": top1, "epoch": 1}
    shares = {"sparsity": 0.98, "average_relative_rank": 0.9, "average_relative_tail_rank": 0.5}
    return {**run._asdict(), "best": scores, "last": scores, **shares, "seconds": 1.0}


def test_a_stopped_study_continues(tmp_path, monkeypatch):
    runs = compare_methods.main_part("characters")[:4]
    trained = []

    def train(run, core, folder):
        trained.append(run)
        return result_of(run, 90.0)

    monkeypatch.setattr(compare_methods, "train", train)
    path = tmp_path / "results.jsonl"
    compare_methods.run_all(runs[:2], path, 2, 1)
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"data": "charac')  # the machine went down in the middle of a line
    compare_methods.run_all(runs[2:], path, 2, 1)
    results = compare_methods.read_results(path)
    assert [compare_methods.key_of(result) for result in results].count(runs[0].key) == 1
    assert {compare_methods.key_of(result) for result in results} == {run.key for run in runs}
    assert len(trained) == 4


def test_the_table_holds_means_deviations_and_paired_differences():
    accuracies = {"gap": [80.0, 82.0, 81.0], "rpg": [81.0, 82.5, 82.5]}
    results = [
        result_of(compare_methods.Run("digits", "methods", name, {"method": name, "sparsity": 0.98}, seed), top1)
        for name, values in accuracies.items()
        for seed, top1 in enumerate(values)
    ]
    rows = study_report.table(results, [line for line in results if line["name"] == "gap"]).splitlines()
    cells = [cell.strip() for cell in next(row for row in rows if "| rpg" in row).split("|")[1:-1]]
    assert cells[:5] == ["98", "rpg", "3", "2", "82.00 +- 0.87"]
    interval = stats.ttest_rel(accuracies["rpg"], accuracies["gap"]).confidence_interval(0.95)
    assert cells[-1] == f"{1.0:+.2f} +- {interval.high - 1.0:.2f}"


def test_the_summary_has_a_cell_for_every_method_and_sparsity():
    runs = [run for run in compare_methods.main_part("digits") if run.seed < 2]
    lines = study_report.summary([result_of(run, 90.0 + run.seed) for run in runs]).splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert rows[0] == ["method", "0 %", "95 %", "98 %", "99 %"]
    assert rows[2] == ["dense", "90.50 +- 0.71", "", "", ""]
    assert rows[3:] == [[name, "", *["90.50 +- 0.71"] * 3] for name in compare_methods.METHODS]


def test_patterns_have_tables_of_their_own_and_nothing_else_in_them():
    """Also while the methods are those of the former version; each is paired with `gap` of its own pattern."""
    pattern = [
        result_of(run, {"2:4": 90.0, "1:4": 80.0}[run.settings["pattern"]] + (run.name == "rpg") * (1 + run.seed % 2))
        for run in compare_methods.pattern_part("digits")
    ]
    former = [result_of(run, 70.0) for run in compare_methods.main_part("digits")]
    lines = compare_methods.reported(pattern, former)
    assert len(lines) == len(pattern) + len(former)
    text = study_report.sections_of("digits", lines)
    first, second = (text.index(f"## digits: N:M patterns{rest}") + 2 for rest in (", last top-1 % at a glance", ""))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text[first].splitlines()]
    assert rows[0] == ["method", "1:4", "2:4"]
    assert rows[2] == ["magnitude", "80.00 +- 0.00", "90.00 +- 0.00"]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text[second].splitlines()]
    assert [row[:3] for row in rows[2:]] == [
        [p, m, "5"] for p in ("1:4", "2:4") for m in ("magnitude", "gmp", "gap", "rpg")
    ]
    assert rows[0][0] == "pattern"
    assert rows[-1][4] == "91.40 +- 0.55"
    interval = stats.ttest_rel([1, 2, 1, 2, 1], [0] * 5).confidence_interval(0.95)
    assert rows[-1][-1] == f"{1.4:+.2f} +- {interval.high - 1.4:.2f}"
    assert study_report.sections_of("digits", former) == text[: first - 2]


def test_lines_of_two_recipes_are_never_mixed():
    whole = [result_of(run, 90.0) for run in compare_methods.main_part("digits")]
    former = [result_of(run, 80.0) for data in ("digits", "characters") for run in compare_methods.main_part(data)]
    lines = compare_methods.reported(whole, former)
    assert {(line["data"], line["last"]["top1"]) for line in lines} == {("characters", 80.0), ("digits", 90.0)}
    lines = compare_methods.reported(whole[1:], former)
    assert {line["last"]["top1"] for line in lines} == {80.0}
    assert len(lines) == len(former)


def test_the_committed_tables_come_from_the_committed_results(tmp_path):
    new, former = (compare_methods.read_results(path) for path in (compare_methods.RESULTS, compare_methods.FORMER))
    study_report.write_report(compare_methods.reported(new, former), tmp_path)
    assert (tmp_path / "tables.md").read_text() == (STUDY / "tables.md").read_text()


def test_every_figure_of_the_text_is_in_the_tables():
    """Whatever has two decimals, and every row of a table, word for word."""
    text, tables = (STUDY.with_suffix(".md").read_text(), (STUDY / "tables.md").read_text())
    figures = re.findall(r"[+-]?\d+\.\d\d+(?: \+- \d+\.\d+)?", text)
    rows = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("|-")]
    assert len(figures) > 20
    assert len(rows) > 10
    whole = [rf"(?<![\d.]){re.escape(figure)}(?!\d)" for figure in figures]
    assert [figure for figure, pattern in zip(figures, whole) if not re.search(pattern, tables)] == []
    assert [row for row in rows if row not in tables] == []


def test_the_report_is_made_from_results_alone(tmp_path):
    results = [
        result_of(run, 90.0 + run.seed)
        for data in compare_methods.CONFIGS
        for run in compare_methods.main_part(data) + compare_methods.ablation("characters")
    ]
    lines = [json.loads(json.dumps(result)) for result in results]
    study_report.write_report(lines, tmp_path)
    text = (tmp_path / "tables.md").read_text(encoding="utf-8")
    assert "## digits: methods" in text
    assert "## characters: ablation" in text
    for name in ("accuracy.png", "rank.png"):
        with Image.open(tmp_path / name) as image:
            assert image.width > 600

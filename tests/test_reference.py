"""The recorded vectors of the released implementation through the program that others call; every kind of damage."""

import copy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from src import rpg_cell
from src.pruning import pruner
from tests.check_reference import (
    Comparison,
    check_global_stage,
    check_mask_updates,
    check_network,
    compare,
    damages,
    read,
)

HERE = Path(__file__).resolve().parent
PREFIX = HERE / "data" / "rpg_reference"


def run(prefix):
    return subprocess.run([sys.executable, HERE / "check_reference.py", prefix], capture_output=True, text=True)


def test_all_recorded_vectors_are_reproduced():
    done = run(PREFIX)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("72 compared, 0 mismatches") == 2
    assert "96 compared, 0 mismatches" in done.stdout  # 24 updates of four layers
    assert done.stdout.endswith("\n0 mismatches\n")


def test_a_damaged_file_ends_with_1_and_one_that_is_none_with_2(tmp_path):
    shutil.copy(f"{PREFIX}.npz", tmp_path / "damaged.npz")
    (tmp_path / "damaged.json").write_text('{"rank": [], "net": {"layers": []}, "mask_updates": []}')
    done = run(tmp_path / "damaged")
    assert done.returncode == 1, done.stdout + done.stderr
    (tmp_path / "damaged.json").write_text("no JSON")
    done = run(tmp_path / "damaged")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


@pytest.fixture(scope="module")
def few():
    """(reference, arrays): three rank terms, the network, five mask updates, one of which lost a weight."""
    reference, arrays = read(str(PREFIX))
    reference = {**reference, "rank": reference["rank"][:3], "mask_updates": reference["mask_updates"][:5]}
    assert reference["mask_updates"][4]["layer_kept"] != reference["mask_updates"][4]["layer_global_kept"]
    names = {case[kind] for case in reference["rank"] for kind in ("weight", "grad")}
    updates = tuple(f"mask0_{update}_" for update in range(5))
    return reference, {n: a for n, a in arrays.items() if n in names or n.startswith(("net_", *updates))}


@pytest.fixture
def recorded(few):
    """The same, to be damaged."""
    return copy.deepcopy(few)


def test_a_few_are_reproduced(recorded, capsys):
    assert compare(*recorded) == 0
    assert "20 compared, 0 mismatches" in capsys.readouterr().out


def flip(recorded, name):
    array = recorded[1][name].ravel()
    array[array.size // 2] = not array[array.size // 2]


def spoil(recorded, name):
    recorded[1][name].ravel()[-1] = np.nan


def nudge(recorded, name, factor):
    recorded[1][name].ravel()[:] *= np.float32(factor)


def update(recorded, number):
    return recorded[0]["mask_updates"][number]


CHANGED = {
    "a loss": (lambda r: r[0]["rank"][1].update(loss=r[0]["rank"][1]["loss"] + 1e-4), "rank 1: loss"),
    "a rank": (lambda r: r[0]["rank"][2].update(k=r[0]["rank"][2]["k"] + 1), "rank 2: k"),
    "a gradient": (lambda r: nudge(r, "rank_grad0", 1.01), "rank 0: gradient"),
    "a gradient of the network": (lambda r: nudge(r, "net_grad1", 1.01), "network by svd: gradient"),
    "the network's loss": (lambda r: r[0]["net"].update(loss=0.0), "network by gram: loss"),
    "one bit of a mask": (lambda r: flip(r, "mask0_4_mask2"), "mask0_4 layer 2: mask"),
    "a weight after": (lambda r: nudge(r, "mask0_3_wout1", 1.0001), "mask0_3 layer 1: weight"),
    "the number grown": (lambda r: update(r, 2)["layer_grown"].__setitem__(1, 170), "mask0_2 layer 1: mask"),
    "the number kept": (lambda r: update(r, 2)["layer_kept"].__setitem__(1, 702), "mask0_2 layer 1: mask"),
    "the threshold": (lambda r: update(r, 1)["layer_global_kept"].__setitem__(0, 170), "mask0_1: layers"),
}


@pytest.mark.parametrize("damage", CHANGED)
def test_one_changed_value_is_noticed_and_named(damage, recorded, capsys):
    change, message = CHANGED[damage]
    change(recorded)
    assert compare(*recorded) >= 1
    assert message in capsys.readouterr().out


DAMAGED = {
    "no rank terms": (lambda r: r[0].update(rank=[]), "rank: nothing is recorded"),
    "no mask updates": (lambda r: r[0].update(mask_updates=[]), "mask_updates: nothing is recorded"),
    "no layers": (lambda r: r[0]["net"].update(layers=[]), "net_w0: an array that no recorded case names"),
    "rank terms cut short": (lambda r: r[0]["rank"].pop(), "rank_grad2: an array that no recorded case names"),
    "updates cut short": (lambda r: r[0]["mask_updates"].pop(), "mask0_4_w0: an array that no recorded case names"),
    "layers cut short": (lambda r: r[0]["net"]["layers"].pop(), "net_w3: an array that no recorded case names"),
    "shape cut short": (lambda r: r[0]["rank"][0]["shape"].pop(), "rank_grad0: (16, 3, 3, 3) instead of (16, 3, 3)"),
    "layer_grown cut short": (lambda r: update(r, 3)["layer_grown"].pop(), "mask0_3: lists of different lengths"),
    "layer_kept cut short": (lambda r: update(r, 3)["layer_kept"].pop(), "mask0_3: lists of different lengths"),
    "all lists of an update cut short": (
        lambda r: [update(r, 3)[key].pop() for key in update(r, 3) if key.startswith("layer_")],
        "mask0_3_mask3: an array that no recorded case names",
    ),
    "an array missing": (lambda r: r[1].pop("mask0_1_g2"), "mask0_1_g2: no such array"),
    "an array cut short": (
        lambda r: r[1].update(rank_grad1=r[1]["rank_grad1"][:-1]),
        "rank_grad1: (15, 3, 3, 3) instead of (16, 3, 3, 3)",
    ),
    "NaN in a later gradient": (lambda r: spoil(r, "net_grad2"), "net_grad2: not finite"),
    "NaN in a gradient of an update": (lambda r: spoil(r, "mask0_2_g3"), "mask0_2_g3: not finite"),
    "NaN in a weight": (lambda r: spoil(r, "rank_w0"), "rank_w0: not finite"),
    "NaN among the numbers": (lambda r: r[0]["rank"][2].update(loss=np.nan), "rank 2 loss: not finite"),
    "NaN in a list": (
        lambda r: update(r, 4)["layer_density"].__setitem__(1, np.nan),
        "mask_updates 4 layer_density 1: not finite",
    ),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damage_is_noticed_and_named(damage, recorded, capsys):
    change, message = DAMAGED[damage]
    assert damages(*recorded) == []
    change(recorded)
    assert compare(*recorded) >= 1
    assert message in capsys.readouterr().out


def test_nan_in_what_is_computed_is_a_mismatch(recorded, monkeypatch):
    """In the second of several gradients, where Python's max would pass over it."""

    def spoiled(weights, tail_energy):
        terms = layer_terms(weights, tail_energy)
        terms[1].gradient.ravel()[0] = np.nan
        return terms

    layer_terms = rpg_cell.layer_terms
    monkeypatch.setattr(rpg_cell, "layer_terms", spoiled)
    assert check_network(recorded[0]["net"], recorded[1]) >= 1


def test_nothing_to_compare_is_a_mismatch(recorded, capsys):
    late = [{**update(recorded, 4), "global_phase": False}]
    assert check_global_stage(late, recorded[1]) == 1
    assert "nothing was compared" in capsys.readouterr().out


def test_the_largest_deviation_is_nan_once_one_was(capsys):
    comparison = Comparison("some")
    comparison.check("first", loss=(np.nan, 1))
    comparison.check("second", loss=(0.5, 1))
    comparison.check("third", loss=(2, 1))
    assert comparison.report() == 2
    assert "3 compared, 2 mismatches; largest deviation: loss nan" in capsys.readouterr().out


def test_the_updates_are_those_of_the_pruner(recorded, monkeypatch, capsys):
    """Mistakes in `Pruner.update` itself show: what grows, and momentum that is left."""
    updates, arrays = recorded[0]["mask_updates"], recorded[1]
    apply, right = pruner.Pruner._apply, pruner.drop_and_grow
    with monkeypatch.context() as patch:
        patch.setattr(pruner.Pruner, "_apply", lambda self, index, new, momentum: apply(self, index, new, []))
        assert check_mask_updates(updates, arrays) >= 1
    assert "momentum 9" in capsys.readouterr().out
    with monkeypatch.context() as patch:
        patch.setattr(pruner, "drop_and_grow", lambda weight, mask, scores, count: right(weight, mask, -scores, count))
        assert check_mask_updates(updates, arrays) >= 1

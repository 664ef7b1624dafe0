"""Runs with an N:M pattern: whole updates against the oracle, every method, resuming, and the pattern in the files."""

import json
import math
import shutil

import mindspore as ms
import numpy as np
import onnx
import pytest
from mindspore import Parameter, Tensor, nn
from mindspore.train.mind_ir_pb2 import ModelProto

from benchmark.random_checkpoint import write_random_checkpoint
from src.config.keys import resolve
from src.export import edge, formats
from src.export.deployed import describe_interface
from src.export.int8 import integer_weights
from src.library import RPG
from src.platform.errors import InputError
from src.pruning.pattern import Pattern, Patterned
from src.pruning.pruner import Pruner
from src.pruning.schedule import PruningSchedule
from src.run.build import build_parts
from src.run.plan import format_plan
from src.run.trainer import Trainer
from src.weights.checkpoint import read_checkpoint, write_checkpoint
from src.weights.trained import load_trained
from tests.in_process import run
from tests.test_library import BATCH
from tests.test_pattern import Oracle, places

TOTAL, INTERVAL, WINDOW, END, ALPHA = 100, 5, 0.6, 0.9, 0.3  # 12 updates lower the density, 6 more move weights
SHAPES = [(3, 2, 3), (8, 6), (3, 8, 2), (8, 3, 2, 2)]
AXES = {1: 0, 2: 1, 3: 0}


def most_of_a_group(weight, of, axis=1):
    """The largest number of non-zeros in any M neighbours, counted group by group."""
    rows = np.moveaxis(weight, axis, -1).reshape(-1, of)
    return max(sum(value != 0 for value in row) for row in rows.tolist())


@pytest.mark.parametrize("rest", ["dense", "unstructured"])
@pytest.mark.parametrize("kept", [1, 2])
def test_every_update_of_a_run_is_the_oracles(kept, rest, rng):
    pattern = Pattern(kept, 4)
    scales = (1, 4, 0.2, 1)

    def draw():
        return [(scale * rng.standard_normal(shape)).astype(np.float32) for scale, shape in zip(scales, SHAPES)]

    weights = [Parameter(Tensor(array), name=f"weight{index}") for index, array in enumerate(draw())]
    momentum = [Parameter(Tensor(array), name=f"momentum{index}") for index, array in enumerate(draw())]
    schedule = PruningSchedule(TOTAL, INTERVAL, kept / 4, ALPHA, WINDOW, END)
    pruner = Pruner(weights, schedule, patterned=Patterned(pattern, AXES, rest))
    oracle = Oracle(SHAPES, AXES, *pattern)
    for step in range(INTERVAL, int(END * TOTAL) + 1, INTERVAL):
        for index, moved in enumerate(draw()):
            weights[index].set_data(Tensor(weights[index].asnumpy() + moved * pruner.masks[index]))
        gradients, values = draw(), [weight.asnumpy().copy() for weight in weights]
        moments, before = [state.asnumpy().copy() for state in momentum], [mask.copy() for mask in pruner.masks]
        density = (kept / 4) ** min(1, step / (WINDOW * TOTAL))
        fraction = ALPHA / 2 * (1 + math.cos(math.pi * step / (END * TOTAL)))
        oracle.update(values, [np.abs(gradient) for gradient in gradients], round(density * oracle.size), fraction)
        record = pruner.update(step, [Tensor(gradient) for gradient in gradients], [[state] for state in momentum])
        for index in AXES:
            assert places(pruner.masks[index]) == oracle.alive[index], (step, index)
        others = 18 if rest == "dense" else round(density * 18)
        assert np.count_nonzero(pruner.masks[0]) == others
        assert record.kept == others + round(density * oracle.size) == pruner.budget_at(step)
        for index, mask in enumerate(pruner.masks):
            held = np.where(mask & before[index], values[index], 0)
            # What is regrown at once keeps its value, also where the cut of this update had dropped its neighbours.
            assert np.array_equal(weights[index].asnumpy()[mask & (held == 0)], np.zeros((mask & (held == 0)).sum()))
            assert not weights[index].asnumpy()[~mask].any()
            assert np.array_equal(momentum[index].asnumpy(), moments[index] * mask)
    pruner.check()
    assert pruner.broken_pattern(pruner.masks) is None
    assert pruner.kept == pruner.target == kept * oracle.size // 4 + (18 if rest == "dense" else round(18 * kept / 4))
    for index, axis in AXES.items():
        assert most_of_a_group(pruner.masks[index], 4, axis) == kept


def test_masks_without_the_pattern_do_not_pass():
    """Though they keep the right number of weights."""
    weight = Parameter(Tensor(np.ones((2, 8), np.float32)), name="weight")
    schedule = PruningSchedule(10, 5, 0.5, 0.3, 0.6, 0.6)
    pruner = Pruner([weight], schedule, patterned=Patterned(Pattern(2, 4), {0: 1}))
    pruner.update(5, [Tensor(np.ones((2, 8), np.float32))], [[]])
    pruner.check()
    mask = pruner.masks[0].copy()
    mask[0] = [True, True, True, False, True, False, False, False]
    pruner.load_masks([mask])
    with pytest.raises(RuntimeError, match="the mask of weight has not the pattern 2:4"):
        pruner.check()


class Kinds(nn.Cell):
    """A layer of every kind; the first one has input channels enough."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(4, 8, 3)
        self.grouped = nn.Conv2d(8, 8, 3, group=2)
        self.depthwise = nn.Conv2d(8, 8, 3, group=8)
        self.up = nn.Conv2dTranspose(8, 6, 2, group=2)
        self.odd = nn.Conv2d(6, 4, 1)
        self.head = nn.Dense(4, 3)

    def construct(self, x):
        x = self.odd(self.up(self.depthwise(self.grouped(self.first(x)))))
        return self.head(x.mean((2, 3)))


def test_which_layers_take_it():
    network = Kinds()
    patterned = RPG(network, 100, pattern="2:4", update_interval=10).pruner.patterned
    assert dict(patterned.axes) == {1: 1, 3: 0, 5: 1}  # grouped, up, head
    assert RPG(network, 100, pattern="1:3", update_interval=10).pruner.patterned.axes == {4: 1}
    chosen = RPG(network, 100, pattern="1:2", update_interval=10, exclude=["first", "head"]).pruner
    names = [weight.name for weight in chosen.weights]
    assert {names[index]: axis for index, axis in chosen.patterned.axes.items()} == {
        "grouped.weight": 1,
        "up.weight": 0,
        "odd.weight": 1,
    }
    assert chosen.patterned.describe(names) == "pattern 1:2 in 3 of 4 layers; dense: depthwise.weight"
    for pattern, of in (("4:5", 5), ("4:8", 8)):  # `up` has 8 input channels, but 4 in each of its groups
        says = f"RPG: pattern {pattern}: no layer but the first has input channels that divide by {of}; take another M"
        with pytest.raises(InputError, match=f"^{says}$"):
            RPG(network, 100, pattern=pattern, update_interval=10)


class Small(nn.Cell):
    """Two convolutions and a dense layer; only the last two take 2:4."""

    def __init__(self):
        super().__init__()
        self.conv, self.wide = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3)
        self.head = nn.Dense(8, 4)

    def construct(self, x):
        return self.head(self.wide(self.conv(x)).mean((2, 3)))


def build(**settings):
    """(network, RPG, step) over 12 steps: the target is met at step 6, masks move until 8."""
    ms.set_seed(0)
    network = Small()
    values = {"update_interval": 2, "prune_window": 0.6, "update_end": 0.8, **settings}
    pruning = RPG(network, 12, **values)
    return (
        network,
        pruning,
        pruning.train_step(nn.CrossEntropyLoss(), nn.Momentum(network.trainable_params(), 0.05, 0.9)),
    )


@pytest.mark.parametrize("method", ["magnitude", "set", pytest.param("gmp", marks=pytest.mark.slow)])
def test_methods_end_at_their_pattern(method):
    rest = {"magnitude": "unstructured"}.get(method, "dense")
    _, pruning, step = build(method=method, pattern="1:4", pattern_rest=rest)
    for _ in range(12):
        step(*BATCH)
        if method == "set":  # sparse from the start
            assert pruning.pruner.broken_pattern(pruning.pruner.masks) is None
    pruning.check()
    conv, wide, head = pruning.masks.values()
    assert [np.count_nonzero(mask) for mask in (conv, wide, head)] == [72 if rest == "dense" else 18, 144, 8]
    for weight, mask in zip(pruning.pruner.weights, (conv, wide, head)):
        assert not weight.asnumpy()[~mask].any()
    assert most_of_a_group(wide, 4) == most_of_a_group(head, 4) == 1
    assert pruning.density == (np.count_nonzero(conv) + 152) / (72 + 576 + 32)


def test_the_library_continues_bit_for_bit(tmp_path):
    network, pruning, step = build(pattern="2:4")
    for index in range(12):
        step(*BATCH)
        if index in (2, 6):  # on the way to the pattern, and while masks move inside the groups
            pruning.save(tmp_path / f"{index}.ckpt")
    ends = {p.name: p.asnumpy().copy() for p in network.get_parameters()}
    masks = [mask.copy() for mask in pruning.pruner.masks]
    for index in (2, 6):
        pruning.restore(tmp_path / f"{index}.ckpt")
        if index == 2:
            assert any((new != old).any() for new, old in zip(pruning.pruner.masks, masks))
        for _ in range(11 - index):
            step(*BATCH)
        assert all(np.array_equal(p.asnumpy(), ends[p.name]) for p in network.get_parameters())
        assert all(np.array_equal(new, old) for new, old in zip(pruning.pruner.masks, masks))
    arrays, description = read_checkpoint(tmp_path / "6.ckpt")
    for key in ("pattern", "pattern_rest"):
        del description["recipe"][key]  # as a file of before patterns
    write_checkpoint(tmp_path / "old.ckpt", arrays, description)
    with pytest.raises(InputError, match=r"other settings: pattern was '', is '2:4'$"):
        pruning.restore(tmp_path / "old.ckpt")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pattern": "4:2"}, "pattern: Input should be N:M with N below M, such as 2:4, not '4:2'"),
        ({"pattern": 124}, 'pattern: Input should be N:M in quotes, such as "2:4", not 124'),
        (
            {"pattern": "2:4", "sparsity": 0.9},
            "sparsity: pattern 2:4 gives each of its layers a density of 0.5; leave one out",
        ),
        ({"pattern": "2:4", "distribution": "erk"}, "distribution: pattern 2:4 gives each of its layers"),
        ({"pattern": "2:4", "min_layer_density": 0.1}, "min_layer_density: pattern 2:4 gives each of its layers"),
        ({"pattern": "2:4", "densities": {"head": 0.5}}, "densities: a pattern gives every layer its own"),
        ({"pattern_rest": "unstructured"}, "pattern_rest: only beside a pattern; leave it out"),
    ],
    ids=str,
)
def test_contradictions_are_named(settings, message):
    with pytest.raises(InputError) as caught:
        RPG(Small(), 100, update_interval=10, **settings)
    assert message in str(caught.value)


def test_what_the_pattern_sets_stays_when_it_is_read_again():
    config = resolve({"sparsity": 0.98, "distribution": "erk"}, {"pattern": "1:4"})
    assert (config.sparsity, config.distribution, config.pattern) == (0.75, "global", "1:4")
    assert resolve(dict(config)) == config
    assert resolve({"pattern": "2:4"}, {"sparsity": 0.5}).sparsity == 0.5
    assert resolve({"pattern": "2:4"}, {"method": "dense"}).pattern == ""
    with pytest.raises(InputError, match="command line: pattern: method dense prunes nothing"):
        resolve({}, {"method": "dense", "pattern": "2:4"})


def test_the_plan_says_which_layers_take_it():
    plan = format_plan(build_parts(resolve({"pattern": "2:4", "dry_run": True})))
    assert "\npattern 2:4 in 21 of 22 layers; dense: conv1.weight\n" in plan
    assert "density 0.5 is met at step" in plan
    table = plan.partition("kept at start")[2].split("\n\n")[0].splitlines()
    assert table[0].strip() == "kept at the end"
    for name, _, size, *_, end in (line.split() for line in table[2:-1]):
        assert int(end) == (int(size) if name == "conv1.weight" else int(size) // 2)
    assert table[-1].split() == ["total", "270608", "270608", str(144 + (270608 - 144) // 2)]


# --- a run by the programs, and its files


@pytest.fixture(scope="module")
def patterned_run(tmp_path_factory):
    """The folder of a short run of ResNet-20 on the digits to 2:4."""
    ms.set_seed(0)
    folder = tmp_path_factory.mktemp("pattern")
    recipe = {"method": "gap", "pattern": "2:4", "epoch_size": 1, "batch_size": 128, "update_interval": 2}
    Trainer(resolve({**recipe, "output_path": str(folder)})).run()
    return folder


def stored_weights(path):
    """Prunable weights of a MINDIR or ONNX file, by name, read from the file alone."""
    if path.suffix == ".onnx":
        graph = onnx.load(str(path)).graph
        return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    model = ModelProto()
    model.ParseFromString(path.read_bytes())
    return {
        parameter.name.rpartition(":")[2]: np.frombuffer(parameter.raw_data, np.float32).reshape(tuple(parameter.dims))
        for parameter in model.graph.parameter
        if len(parameter.raw_data) == 4 * math.prod(parameter.dims)
    }


def check_files(ckpt, folder, kept, of, first):
    """The pattern of a checkpoint, counted from the MINDIR and the ONNX file that are made of it."""
    interface = describe_interface(load_trained(ckpt), 1)
    names = list(load_trained(ckpt).weights())
    for kind, fold_bn in (("MINDIR", False), ("ONNX", True)):
        path = folder / f"net{formats.SUFFIXES[kind]}"
        formats.export_graph(ckpt, kind, path, interface, fold_bn)
        stored = stored_weights(path)
        assert [name for name in names if most_of_a_group(stored[name], of if name != first else 1) > kept] == []
        assert np.count_nonzero(stored[first]) == stored[first].size  # the first layer is dense
        some = [name for name in names if name != first and most_of_a_group(stored[name], of) == kept]
        assert some == [name for name in names if name != first]


def test_a_run_ends_at_its_pattern_and_its_files_have_it(patterned_run, tmp_path):
    result = json.loads((patterned_run / "result.json").read_text())
    left = 144 + (270608 - 144) // 2
    assert result["nonzeros"] <= left  # what has just grown may still be zero
    assert result["nonzeros"] > left - 50
    check_files(patterned_run / "last.ckpt", tmp_path, 2, 4, "conv1.weight")


@pytest.mark.slow
@pytest.mark.parametrize(("kept", "of"), [(2, 4), (1, 4)])
def test_files_of_resnet18_have_their_pattern(tmp_path, kept, of):
    path = tmp_path / "resnet18.ckpt"
    write_random_checkpoint(path, "resnet18", pattern=f"{kept}:{of}")
    check_files(path, tmp_path, kept, of, "conv1.weight")


def test_evaluation_counts_the_pattern_in_the_file(patterned_run):
    answer = run("eval.py", "--ckpt", patterned_run / "last.ckpt")
    assert answer.code == 0, answer.stderr
    assert "pattern 2:4 in 21 of 22 layers; dense: conv1.weight; counted as exact in 21\n" in answer.stdout
    answer = run("eval.py", "--ckpt", patterned_run / "last.ckpt", "--json")
    found = json.loads(answer.stdout)["pattern"]
    assert (found["name"], len(found["exact"])) == ("2:4", 21)


def changed(source, path, change):
    """A copy of a checkpoint whose first layer with a pattern is changed in place."""
    arrays, description = read_checkpoint(source)
    arrays = {name: np.array(array) for name, array in arrays.items()}
    name = "layer1.0.conv1.weight"
    change(arrays[name])
    description["nonzeros"][name] = int(np.count_nonzero(arrays[name]))
    write_checkpoint(path, arrays, description)
    return path


def moved(weight):
    """As many non-zeros as before, but three in the first group."""
    weight[0, :8, 0, 0] = [1, 1, 1, 0, 1, 0, 0, 0]


def full(weight):
    """More non-zeros than the target."""
    weight[:] = 1


def test_a_broken_pattern_is_neither_exported_nor_passed_in_evaluation(patterned_run, tmp_path):
    ckpt = changed(patterned_run / "last.ckpt", tmp_path / "moved.ckpt", moved)
    says = f"error: {ckpt}: layer1.0.conv1.weight breaks the pattern 2:4 in 1 of its 576 groups: let the run"
    for words in (["eval.py"], ["export.py"], ["export.py", "--file_format", "PACKED"]):
        answer = run(*words[:1], "--ckpt", ckpt, *words[1:])
        assert (answer.code, answer.stderr.count("\n")) == (2, 1)
        assert answer.stderr.startswith(says)
    ckpt = changed(patterned_run / "last.ckpt", tmp_path / "full.ckpt", full)
    answer = run("eval.py", "--ckpt", ckpt)
    assert answer.code == 0
    assert answer.stderr == f"warning: {ckpt}: on its way: 1 layers have not their pattern 2:4 yet\n"
    assert "counted as exact in 20\n" in answer.stdout
    assert run("export.py", "--ckpt", ckpt).code == 2
    assert {path.name for path in tmp_path.iterdir()} == {"moved.ckpt", "full.ckpt"}


def test_keys_of_sparsity_are_for_files_of_two_of_four_in_eight_bits(patterned_run, trained_resnet20, tmp_path):
    """Not for the same network in float32, nor for one that is pruned more, but without a pattern."""
    found = {}
    for name, words in (("int8", ["--quantize", "int8", "--calibration_images", 8]), ("float32", [])):
        path = tmp_path / f"{name}.onnx"
        words = [
            "--ckpt",
            patterned_run / "last.ckpt",
            "--file_format",
            "ONNX",
            "--file_name",
            path,
            "--converter_config",
            *words,
        ]
        answer = run("export.py", *words)
        assert answer.code == 0, answer.stderr
        config = path.with_name(f"{name}.onnx.converter.cfg").read_text()
        found[name] = ("ge.enableSparseMatrixWeight=1" in config, "--sparsity=1" in answer.stdout)
        assert (f"{name}_deploy_model.onnx" in answer.stdout) == (name != "float32")
    assert found == {"int8": (True, True), "float32": (False, False)}
    assert not edge.has_two_of_four(load_trained(trained_resnet20[0]))
    stored = integer_weights(onnx.load(str(tmp_path / "int8.onnx")))
    for name, weight in load_trained(patterned_run / "last.ckpt").weights().items():
        integers = stored[name] if stored[name].shape == weight.shape else stored[name].T
        assert name == "conv1.weight" or most_of_a_group(integers, 4) == 2


def test_a_state_whose_masks_have_lost_the_pattern_is_refused(patterned_run, tmp_path):
    shutil.copytree(patterned_run, tmp_path / "run")
    path = tmp_path / "run" / "resume.ckpt"
    arrays, progress = read_checkpoint(path)
    arrays = {name: np.array(array) for name, array in arrays.items()}
    name = "layer1.0.conv1.weight"
    weight = arrays[f"network.{name}"]
    mask = np.unpackbits(arrays[f"mask.{name}"], count=weight.size).astype(bool).reshape(weight.shape)
    rows = [row for row in range(16) if not (mask[row, :8, 0, 0] == mask[row, [4, 5, 6, 7, 0, 1, 2, 3], 0, 0]).all()]
    mask[rows[0], :8, 0, 0] = [True, True, True, False, True, False, False, False]
    weight *= mask
    arrays[f"mask.{name}"] = np.packbits(mask)
    write_checkpoint(path, arrays, progress)
    answer = run("train.py", "--config_path", tmp_path / "run" / "config.yaml", "--resume_ckpt", path,
                 "--output_path", tmp_path / "new")  # fmt: skip
    assert answer.code == 2
    assert "the mask of layer1.0.conv1.weight has not the pattern 2:4" in answer.stderr

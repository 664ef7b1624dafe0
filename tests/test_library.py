"""Networks that are not ours: docs/library.md as it stands, choice of layers, densities, optimisers, transformers."""

import importlib
import re
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from mindspore.train.mind_ir_pb2 import ModelProto

import src
from src.library import OPTIMIZERS, RPG, _check_optimizer, _difference
from src.platform.errors import InputError
from src.pruning.layers import LayerChoice
from src.pruning.rank_term import layer_term
from src.pruning.settings import PruningSettings
from src.training.train_step import optimizer_state
from src.weights.checkpoint import read_checkpoint

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "library.md"
BLOCKS = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.S)
MODEL_BLOCKS, LOOP_BLOCKS = BLOCKS[:3], BLOCKS[3:]


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    """(folder, names after the part on Model.train, names after the loop) of running docs/library.md as one program.

    It is a file, because MindSpore compiles from source files.
    """
    folder = tmp_path_factory.mktemp("library")
    program = [*MODEL_BLOCKS, "after_model = dict(globals())\n", *LOOP_BLOCKS]
    (folder / "library_document.py").write_text("\n".join(program), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "mindspore_rpg", src)  # the name under which `pip install .` puts it
        patch.syspath_prepend(folder)
        patch.chdir(folder)
        names = vars(importlib.import_module("library_document"))
    after_model = names["after_model"]
    yield folder, after_model, names
    del sys.modules["library_document"]
    names.clear()  # MindSpore complains of networks that live until the interpreter ends
    after_model.clear()


def zeros_and_size(arrays):
    arrays = list(arrays)
    return sum(int((array == 0).sum()) for array in arrays), sum(array.size for array in arrays)


def stored_weights(path):
    """Float32 parameters in a MINDIR file, by name."""
    model = ModelProto()
    model.ParseFromString(path.read_bytes())
    return {p.name.rpartition(":")[2]: np.frombuffer(p.raw_data, np.float32) for p in model.graph.parameter}


def test_five_lines_prune_a_mindcv_network_in_model_train(document):
    _, names, _ = document
    network, pruning = names["network"], names["pruning"]
    assert len(BLOCKS[1].strip().splitlines()) == 5
    assert names["step"].inner.step == 12
    weights = [
        cell.weight.asnumpy() for _, cell in network.cells_and_names() if isinstance(cell, (nn.Conv2d, nn.Dense))
    ]
    zeros, size = zeros_and_size(weights)
    assert size - zeros == round(0.02 * size)
    assert pruning.sparsity == zeros / size
    assert pruning.report()["nonzeros"] == size - zeros


def test_the_network_exports_with_its_zeros_and_its_outputs(document):
    folder, names, _ = document
    network, images = names["network"], Tensor(names["images"][:1])
    stored = stored_weights(folder / "network.mindir")
    for weight in names["pruning"].pruner.weights:
        assert np.array_equal(stored[weight.name], weight.asnumpy().ravel())
    reloaded = nn.GraphCell(ms.load(str(folder / "network.mindir")))
    assert np.array_equal(reloaded(images).asnumpy(), network.set_train(False)(images).asnumpy())
    assert set(ms.load_checkpoint(str(folder / "network.ckpt"))) == set(network.parameters_dict())


def test_the_loop_of_ones_own_continues_and_meets_its_target(document):
    _, _, names = document
    pruning = names["pruning"]
    assert names["start"] == 2
    assert names["step"].inner.step == 12
    assert list(pruning.masks) == ["body.0.weight"]  # the head is excluded
    assert pruning.masks["body.0.weight"].sum() == round(0.1 * 16 * 27)
    assert pruning.sparsity == pytest.approx(0.9, abs=2e-3)
    assert (names["network"].head.weight.asnumpy() != 0).all()


def test_the_loop_leaves_a_report_and_a_checkpoint_for_the_programs(document):
    folder, _, names = document
    tensors, description = read_checkpoint(folder / "own.ckpt")
    assert set(tensors) == set(names["network"].parameters_dict())
    assert description["classes"] == ["cat", "dog", "fish", "owl"]
    assert description["pruned"] == ["body.0.weight"]
    assert "Own network: rpg, 90\u00a0% sparsity" in (folder / "report" / "report.html").read_text(encoding="utf-8")


class Net(nn.Cell):
    """A convolution, a depthwise one, BatchNorm and two dense layers."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, group=8, has_bias=True)
        self.hidden = nn.Dense(8, 16)
        self.head = nn.Dense(16, 4)

    def construct(self, x):
        x = ops.relu(self.depthwise(ops.relu(self.norm(self.conv(x)))))
        return self.head(ops.relu(self.hidden(x.mean((2, 3)))))


BATCH = (
    Tensor(np.random.default_rng(0).standard_normal((8, 1, 6, 6)).astype(np.float32)),
    Tensor(np.arange(8, dtype=np.int32) % 4),
)


def build(make_optimizer=None, network=None, **settings):
    """(network, RPG, step) over 12 steps with updates every 2."""
    ms.set_seed(0)
    network = network or Net()
    values = {
        "sparsity": 0.9,
        "distribution": "erk",
        "update_interval": 2,
        "prune_window": 0.6,
        "update_end": 0.8,
        **settings,
    }
    pruning = RPG(network, 12, **values)
    optimizer = (make_optimizer or (lambda p: nn.Momentum(p, 0.05, 0.9)))(network.trainable_params())
    return network, pruning, pruning.train_step(nn.CrossEntropyLoss(), optimizer)


class Tiny(nn.Cell):
    """As little as it takes to be quick to compile."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 8, 3), nn.Dense(8, 4)

    def construct(self, x):
        return self.head(self.conv(x).mean((2, 3)))


MAKE = {
    nn.AdaFactor: lambda p: nn.AdaFactor(p, weight_decay=0.1),
    nn.AdaMax: lambda p: nn.AdaMax(p, 0.01, weight_decay=0.1),
    nn.Adadelta: lambda p: nn.Adadelta(p, 1.0, weight_decay=0.1),
    nn.Adam: lambda p: nn.Adam(p, 0.01, weight_decay=0.1, use_amsgrad=True),
    nn.AdamOffload: lambda p: nn.AdamOffload(p, 0.01, weight_decay=0.1),
    nn.AdamWeightDecay: lambda p: nn.AdamWeightDecay(p, 0.01, weight_decay=0.1),
    nn.ASGD: lambda p: nn.ASGD(p, 0.05, weight_decay=0.1),
    nn.FTRL: lambda p: nn.FTRL(p, learning_rate=0.05, weight_decay=0.1),
    nn.LazyAdam: lambda p: nn.LazyAdam(p, 0.01, weight_decay=0.1),
    nn.Momentum: lambda p: nn.Momentum(p, 0.05, 0.9, weight_decay=0.1, use_nesterov=True),
    nn.RMSProp: lambda p: nn.RMSProp(p, 0.01, momentum=0.9, centered=True, weight_decay=0.1),
    nn.SGD: lambda p: nn.SGD(p, [0.05] * 12, momentum=0.9, weight_decay=0.1),
}


@pytest.mark.parametrize("kind", OPTIMIZERS, ids=lambda kind: kind.__name__)
def test_weights_and_all_moments_stay_exactly_zero_with_every_optimiser_that_is_listed(kind):
    _, pruning, step = build(MAKE[kind], network=Tiny(), method="gap")
    assert type(step.optimizer) is kind
    started = [weight.asnumpy().copy() for weight in pruning.pruner.weights]
    for _ in range(12):
        assert np.isfinite(float(step(*BATCH)))
        for weight, mask in zip(pruning.pruner.weights, pruning.pruner.masks):
            states = [state.asnumpy() for state in optimizer_state(step.optimizer, weight)]
            assert states
            for array in [weight.asnumpy(), *states]:
                assert np.isfinite(array).all()
                assert not array[~mask].any()
    pruning.check()
    for weight, mask, start in zip(pruning.pruner.weights, pruning.pruner.masks, started):
        assert (weight.asnumpy()[mask] != start[mask]).all()  # it does train


def test_every_other_optimiser_is_refused_before_it_does_harm():
    parameters = Tiny().trainable_params()
    refused = {
        nn.Adagrad(parameters),
        nn.ProximalAdagrad(parameters),
        nn.Rprop(parameters),
        nn.Lamb(parameters, 0.01),
        nn.LARS(nn.SGD(parameters)),
    }
    kinds = {kind for kind in vars(nn).values() if isinstance(kind, type) and issubclass(kind, nn.Optimizer)}
    wrappers = {nn.Optimizer, nn.OptTFTWrapper} if hasattr(nn, "OptTFTWrapper") else {nn.Optimizer}
    assert kinds - wrappers == {*OPTIMIZERS, *map(type, refused)}
    listed = ", ".join(kind.__name__ for kind in OPTIMIZERS)
    for optimizer in refused:
        with pytest.raises(InputError, match=f"{type(optimizer).__name__} does not work .* use one of {listed}$"):
            _check_optimizer(optimizer, [])
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if line.startswith("* An optimiser of"):
            assert re.findall(r"`(\w+)`", line) == [kind.__name__ for kind in OPTIMIZERS]
            break
    else:
        raise AssertionError("the document does not list the optimisers")


def test_an_optimiser_of_ones_own_is_judged_by_what_it_derives_from():
    class Mine(nn.Optimizer):
        """From scratch."""

    class Refined(nn.Momentum):
        """From one that works."""

    class Worse(nn.Adagrad):
        """From one that does not."""

    parameters = Tiny().trainable_params()
    for optimizer in (Mine(0.1, parameters), Refined(parameters, 0.1, 0.9)):
        _check_optimizer(optimizer, parameters)
    with pytest.raises(InputError, match="Adagrad does not work"):
        _check_optimizer(Worse(parameters), parameters)


CONVOLUTIONS = ["one.weight", "three.weight", "depthwise.weight", "up.0.weight", "up.1.weight", "up.2.weight"]


class Many(nn.Cell):
    """One of each kind of layer; never run."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv1d(2, 4, 3)
        self.three = nn.Conv3d(2, 4, 3)
        self.depthwise = nn.Conv2d(4, 4, 3, group=4)
        self.up = nn.CellList([nn.Conv1dTranspose(2, 4, 3), nn.Conv2dTranspose(2, 4, 3), nn.Conv3dTranspose(2, 4, 3)])
        self.blocks = nn.CellList([nn.Dense(4, 4), nn.Dense(4, 4)])
        self.tied = nn.Dense(4, 4)
        self.tied.weight = self.blocks[0].weight
        self.frozen = nn.Dense(4, 4)
        self.frozen.weight.requires_grad = False
        self.embedding = nn.Embedding(8, 4)
        self.norm = nn.LayerNorm((4,))
        self.query = ms.Parameter(Tensor(np.ones((4, 4), np.float32)), name="query")


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (None, (), [*CONVOLUTIONS, "blocks.0.weight", "blocks.1.weight"]),
        (None, ["blocks.*", "one", "up.*"], ["three.weight", "depthwise.weight"]),
        (["query", "blocks.?"], (), ["query", "blocks.0.weight", "blocks.1.weight"]),
        (["*"], ["*.weight"], ["query", "embedding.embedding_table"]),
    ],
    ids=["default", "exclude", "include", "both"],
)
def test_layers_are_chosen_by_kind_or_by_name(include, exclude, expected):
    weights = LayerChoice(include, exclude).weights(Many())
    assert sorted(weight.name for weight in weights) == sorted(expected)


def test_a_shared_weight_counts_once_and_no_dense_layer_takes_part_in_the_rank_term():
    weights = LayerChoice().weights(Many())
    assert sum(weight.name == "blocks.0.weight" for weight in weights) == 1
    assert [w.name for w in LayerChoice().rank_weights(Many(), weights)] == CONVOLUTIONS
    named = LayerChoice(rank_layers=["blocks.1"])
    assert [w.name for w in named.rank_weights(Many(), weights)] == ["blocks.1.weight"]


def test_layers_keep_densities_of_their_own_and_the_total_stays_exact():
    own = {"d*": 0.25, "conv": 1.0, "he*": 0.5, "head": 0.125}  # of two patterns the later one wins
    _, pruning, step = build(distribution="global", method="gap", sparsity=0.5, densities=own)
    kept = []
    for _ in range(12):
        step(*BATCH)
        kept.append({name.partition(".")[0]: int(mask.sum()) for name, mask in pruning.masks.items()})
    assert kept[-1] == {"conv": 72, "depthwise": 18, "hidden": 168 - 72 - 18 - 8, "head": 8}
    assert kept[1] == {"conv": 72, "depthwise": 45, "hidden": 105, "head": 32}  # a third of the way, all by powers


@pytest.mark.parametrize(
    ("settings", "least"),
    [
        ({}, [5, 5, 8, 6]),  # a quarter of ERK's share
        ({"sparsity": 0.9}, [1, 1, 2, 2]),
        ({"min_layer_density": 0}, [0, 0, 0, 0]),
        ({"min_layer_density": 0.1}, [8, 8, 13, 7]),
    ],
)
def test_no_layer_is_emptied_unless_asked(settings, least):
    pruning = RPG(Net(), 12, **{"sparsity": 0.7, "update_interval": 2, **settings})
    named = dict(zip(pruning.masks, pruning.pruner.least_counts()))
    assert list(named.values()) == least, named


class Decoder(nn.Cell):
    """Down by a convolution and up again by transposed ones, whole and grouped."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(1, 8, 3, stride=2)
        self.up = nn.Conv2dTranspose(8, 4, 4, stride=2)
        self.grouped = nn.Conv2dTranspose(4, 6, 3, group=2)
        self.head = nn.Dense(6, 4)

    def construct(self, x):
        return self.head(ops.relu(self.grouped(ops.relu(self.up(ops.relu(self.down(x)))))).mean((2, 3)))


@pytest.mark.parametrize("solver", ["gram", "svd"])
def test_transposed_convolutions_are_pruned_like_others(solver):
    _, pruning, step = build(network=Decoder(), rank_solver=solver, rank_interval=1, tail_energy=0.3)
    weights = {weight.name: weight.asnumpy().copy() for weight in pruning.pruner.weights}
    assert {name: array.shape for name, array in weights.items()} == {
        "down.weight": (8, 1, 3, 3),
        "up.weight": (8, 4, 4, 4),
        "grouped.weight": (4, 3, 3, 3),
        "head.weight": (4, 6),
    }
    step(*BATCH)
    grouped = weights["grouped.weight"].reshape(2, 2, 3, 9)
    rows = [[grouped[group, i, o] for i in range(2)] for group in range(2) for o in range(3)]
    matrices = [weights["down.weight"], weights["up.weight"].swapaxes(0, 1), np.array(rows)]
    expected = np.mean([layer_term(matrix, 0.3).loss for matrix in matrices])
    assert float(step.inner.last_rank_loss) == pytest.approx(expected, rel=1e-5)
    for _ in range(11):
        step(*BATCH)
    pruning.check()
    report = pruning.report()
    assert report["nonzeros"] <= pruning.pruner.kept == round(0.1 * (72 + 512 + 108 + 24))
    assert [layer["max_rank"] for layer in report["layers"]] == [8, 4, 6, 4]


class Attention(nn.Cell):
    """Self-attention of one head."""

    def __init__(self, width):
        super().__init__()
        self.query, self.key, self.value = (nn.Dense(width, width) for _ in range(3))
        self.out = nn.Dense(width, width)

    def construct(self, x):
        scores = ops.matmul(self.query(x), self.key(x).swapaxes(1, 2)) / x.shape[-1] ** 0.5
        return self.out(ops.matmul(ops.softmax(scores), self.value(x)))


class Block(nn.Cell):
    """A transformer block, normalised first."""

    def __init__(self, width):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm((width,)), nn.LayerNorm((width,))
        self.attention = Attention(width)
        self.mlp = nn.SequentialCell(nn.Dense(width, 2 * width), nn.GELU(), nn.Dense(2 * width, width))

    def construct(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Cell):
    """Patches of 2x2 pixels, learned positions, one block, mean over the patches; returns its own loss."""

    def __init__(self, width=16, classes=4):
        super().__init__()
        self.patch_embed = nn.Conv2d(1, width, 2, stride=2)
        self.positions = ms.Parameter(Tensor(np.zeros((1, 9, width), np.float32)), name="positions")
        self.blocks = nn.SequentialCell(Block(width))
        self.head = nn.Dense(width, classes)

    def construct(self, images, labels):
        x = self.patch_embed(images).flatten(start_dim=2).swapaxes(1, 2) + self.positions
        return ops.cross_entropy(self.head(self.blocks(x).mean(1)), labels)


def test_a_vision_transformer_is_pruned_in_its_dense_layers_alone():
    ms.set_seed(0)
    network = VisionTransformer()
    choice = {"exclude": ["patch_embed"], "rank_layers": ["blocks.*"], "distribution": "erk"}
    pruning = RPG(network, 12, rank_weight=5.0, update_interval=2, **choice)
    step = pruning.train_step(None, nn.AdamWeightDecay(network.trainable_params(), 1e-3, weight_decay=0.05))
    for _ in range(12):
        loss = step(*BATCH)
    assert np.isfinite(float(loss))
    pruning.check()
    sizes = {name: mask.size for name, mask in pruning.masks.items()}
    assert sum(sizes.values()) == 4 * 16 * 16 + 2 * 2 * 16 * 16 + 16 * 4
    assert sum(int(mask.sum()) for mask in pruning.masks.values()) == round(0.02 * sum(sizes.values()))
    assert (network.patch_embed.weight.asnumpy() != 0).all()
    assert -1 < float(step.inner.last_rank_loss) < 0


def test_a_run_continues_bit_for_bit_and_only_with_its_own_settings(tmp_path):
    def adam(parameters):
        return nn.Adam(parameters, 0.01, weight_decay=0.01)

    network, pruning, step = build(adam)
    for index in range(12):
        step(*BATCH)
        if index == 4:
            pruning.save(tmp_path / "state.ckpt", epoch=1)
    ends = {p.name: p.asnumpy().copy() for p in network.get_parameters()}
    masks = {name: mask.copy() for name, mask in pruning.masks.items()}
    # Back into the same objects: all that differs after twelve steps has to be in the file.
    assert pruning.restore(tmp_path / "state.ckpt") == {"step": 5, "epoch": 1}
    assert any((pruning.masks[name] != mask).any() for name, mask in masks.items())
    for _ in range(7):
        step(*BATCH)
    for parameter in network.get_parameters():
        assert np.array_equal(parameter.asnumpy(), ends[parameter.name]), parameter.name
    assert all(np.array_equal(mask, masks[name]) for name, mask in pruning.masks.items())

    _, other, _ = build(adam, sparsity=0.8, exclude=["head"])
    before = other.pruner.weights[0].asnumpy().copy()
    says = r"other settings: weights was 4 with head\.weight, is 3; sparsity was 0\.9, is 0\.8$"
    with pytest.raises(InputError, match=says):
        other.restore(tmp_path / "state.ckpt")
    assert np.array_equal(other.pruner.weights[0].asnumpy(), before)


def test_what_is_not_finite_is_not_saved_and_the_state_before_goes_on(tmp_path):
    network, pruning, step = build(update_interval=3)
    step(*BATCH)
    pruning.save(tmp_path / "state.ckpt")
    good = (tmp_path / "state.ckpt").read_bytes()
    weight = network.trainable_params()[0]
    ops.assign(weight, Tensor(np.full(weight.shape, np.nan, np.float32)))
    with pytest.raises(InputError, match="is not finite"):
        pruning.save(tmp_path / "state.ckpt")
    step(*BATCH)  # noted in the step this time
    with pytest.raises(InputError, match=r"step 2: .* not finite"):
        pruning.save(tmp_path / "state.ckpt")
    assert (tmp_path / "state.ckpt").read_bytes() == good
    pruning.restore(tmp_path / "state.ckpt")
    for _ in range(11):
        step(*BATCH)
    pruning.check()


@pytest.mark.parametrize(
    ("method", "density", "drop_fraction", "updates"),
    [("gap", 1, 0.3, 3), ("gmp", 1, 0.0, 3), ("rigl", 0.1, 0.3, 3), ("set", 0.1, 0.3, 3), ("magnitude", 1, 0.0, 1)],
)
def test_methods_by_name(method, density, drop_fraction, updates):
    pruning = RPG(Net(), 12, method=method, sparsity=0.9, update_interval=3)
    assert pruning.density == pytest.approx(density, abs=1e-2)
    assert pruning.sparsity == pytest.approx(1 - density, abs=1e-2)
    schedule = pruning.pruner.schedule
    assert (schedule.drop_fraction, schedule.updates) == (drop_fraction, updates)
    assert pruning.pruner.growth == ("random" if method == "set" else "gradient")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsty": 0.9}, "unknown setting 'sparsty'; did you mean sparsity"),
        ({"exlude": ["head"]}, "unknown setting 'exlude'; did you mean exclude"),
        ({"sparsity": 1.5}, "sparsity: .* not 1.5"),
        ({"method": "gmp", "drop_fraction": 0.1}, "drop_fraction: method gmp fixes it to 0"),
        ({"method": "dense"}, "train without RPG"),
        ({"prune_window": 1.0, "update_end": 0.5}, "raise update_end or lower prune_window"),
        ({"update_interval": 100}, "no mask update fits"),
        ({"exclude": ["haed"]}, "exclude: no weight is named 'haed'; did you mean 'head'"),
        ({"exclude": "head"}, "exclude: 'head' is one text"),
        ({"exclude": ["*"]}, "no weight to prune"),
        ({"include": ["norm"]}, "include: no weight is named 'norm'"),
        ({"rank_layers": ["nothing"]}, "rank_layers: no weight"),
        ({"densities": {"head": 2}}, "densities: 'head' has 2"),
        ({"densities": {"hidden": 1.0}}, "the densities of single layers take 128 of them"),
        ({"densities": {"head": 0.5}, "distribution": "uniform"}, "use global or erk"),
    ],
    ids=str,
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        RPG(Net(), 12, **{"sparsity": 0.95, "update_interval": 3, **settings})


def test_what_cannot_train_is_named():
    network = Net()
    pruning = RPG(network, 12, update_interval=3)
    with pytest.raises(InputError, match="call train_step first"):
        pruning.save("state.ckpt")
    headless = nn.SGD([p for p in network.trainable_params() if p.name != "head.weight"])
    with pytest.raises(InputError, match=r"does not train head\.weight, which is pruned"):
        pruning.train_step(nn.CrossEntropyLoss(), headless)
    foreign = ms.experimental.optim.AdamW(network.trainable_params())
    with pytest.raises(InputError, match=r"AdamW is not an optimiser of mindspore\.nn"):
        pruning.train_step(nn.CrossEntropyLoss(), foreign)
    try:
        ms.set_context(mode=ms.GRAPH_MODE)
        with pytest.raises(InputError, match="PYNATIVE_MODE"):
            pruning.train_step(nn.CrossEntropyLoss(), nn.SGD(network.trainable_params()))
    finally:
        ms.set_context(mode=ms.PYNATIVE_MODE)


def test_check_before_the_target_says_where_the_training_stands():
    pruning, step = build(method="gap")[1:]
    with pytest.raises(
        InputError, match=r"at step 0 of 12, and the target density 0\.1 is reached at step 6; train on"
    ):
        pruning.check()
    for _ in range(5):
        step(*BATCH)
    with pytest.raises(InputError, match="at step 5 of 12"):
        pruning.check()
    step(*BATCH)
    pruning.check()
    # Then it is a mistake of the pruner, or weights that were changed by hand.
    mask = pruning.pruner.masks[-1]
    mask.ravel()[np.flatnonzero(mask)[0]] = False
    with pytest.raises(RuntimeError, match="masks keep 33 weights instead of 34"):
        pruning.check()


def test_methods_that_are_sparse_from_the_start_pass_the_check_at_once():
    build(method="rigl")[1].check()


def test_what_is_no_network_and_no_tensor_is_named():
    with pytest.raises(InputError, match=r"RPG: network: a Cell of mindspore\.nn, not function"):
        RPG(lambda x: x, 12)
    with pytest.raises(InputError, match=r"not numpy\.ndarray"):
        RPG(np.zeros((4, 4)), 12)
    step = build(method="gap")[2]
    images, labels = BATCH
    with pytest.raises(InputError, match=r"part 2 of the batch is numpy\.ndarray; give a mindspore\.Tensor"):
        step(images, labels.asnumpy())
    assert step.inner.step == 0
    assert np.isfinite(float(step(*BATCH)))


@pytest.mark.parametrize(
    ("was", "now", "says"),
    [
        (12, 16, "key was 12, is 16"),
        (None, 0.5, "key was None, is 0.5"),
        ({}, {"head": 0.5}, "key was {}, is {'head': 0.5}"),
        (["a", "b"], ["b", "c", "d"], "key was 2 with a, is 3 with c, d"),
        (["a"], [], "key was 1 with a, is 0"),
        (["a", "b"], ["b", "a"], "key was ['a', 'b'], is ['b', 'a']"),
    ],
)
def test_both_values_of_a_setting_are_told(was, now, says):
    assert _difference("key", was, now) == says


def test_half_steps_and_half_precision_weights_are_refused():
    with pytest.raises(InputError, match="total_steps: a number of batches, at least 1, not"):
        RPG(Net(), 1.5)
    with pytest.raises(InputError, match="weight is Float16; only float32 weights can be pruned"):
        RPG(nn.Dense(4, 4, dtype=ms.float16), 12)


def test_dense_layers_alone_are_said_to_have_no_rank_term():
    with pytest.warns(UserWarning, match="name dense layers in rank_layers"):
        RPG(nn.SequentialCell(nn.Dense(8, 8), nn.ReLU(), nn.Dense(8, 4)), 12, update_interval=3)


def test_the_document_lists_every_setting_with_its_default():
    rows = re.findall(r"^\| (`.*?) \| (.*?) \| .*\|$", DOCUMENT.read_text(encoding="utf-8"), flags=re.M)
    listed = {}
    for names, defaults in rows:
        listed.update(zip(re.findall(r"`(\w+)`", names), defaults.replace("`", "").split(", ")))
    defaults = {name: str(field.default) for name, field in PruningSettings.model_fields.items()}
    assert listed == {**defaults, "seed": "0"}

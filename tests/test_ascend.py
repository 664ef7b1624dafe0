"""What the compiled steps and evaluation ask of a device, against what the installed MindSpore registers for Ascend.

Nothing runs on Ascend here. MindSpore's wheel for Linux carries its Ascend plugin: the kernels are C++ classes whose
names stand in the library, and the operators of the AICPU stand in a table.
"""

import json
import re
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, jit_class, nn

from src import rpg_cell
from src.models.resnet import BasicBlock, ResNet
from src.platform.errors import InputError
from src.platform.parallel import Workers
from src.pruning.pruner import Pruner, convolution_weights, prunable_weights
from src.pruning.schedule import PruningSchedule
from src.rpg_cell import RPGWithLossCell, build_rank_term
from src.training.accumulation import GradientAccumulator
from src.training.amp import LossScale, mixed_precision
from src.training.batch_norm import synchronise
from src.training.clipping import clip_by_global_norm
from src.training.ema import WeightAverage
from src.training.evaluation import Evaluator
from src.training.optimizer import build_optimizer
from src.training.train_step import Extras, Pruning, TaskLoss, TrainStep

PACKAGE = Path(ms.__file__).parent
KERNELS = PACKAGE / "lib/plugin/libmindspore_ops_ascend.so"
ADAPTERS = PACKAGE / "lib/plugin/ascend/libmindspore_ascend_res_manager.so"

# The compiler's own primitives, for which no device has a kernel.
COMPILER = {"Depend", "Load", "MakeTuple", "Partial", "Return", "Switch", "TupleGetItem", "UpdateState"}
# Without a kernel of MindSpore's own: CANN gets them through the adapter of its graph engine. Every convolutional
# network that MindSpore trains on Ascend needs these; another one that comes only this way, such as Svd, has to be
# looked at before it is entered here.
THROUGH_CANN = {
    "Adam",  # CANN's ApplyAdam; nn.Adam is documented for Ascend
    "ApplyMomentum",
    "Assign",
    "AssignAdd",
    "BatchNorm",
    "BatchNormGrad",
    "Conv2D",
    "Conv2DBackpropFilter",
    "Conv2DBackpropInput",
    "MaxPool",
    "MaxPoolGrad",
    "Pad",
    "TensorMove",
}
MESSAGES = {"AllReduce", "AllGather"}  # of several workers

pytestmark = pytest.mark.skipif(
    not (KERNELS.is_file() and ADAPTERS.is_file()), reason="this MindSpore comes without its Ascend plugin"
)


def mangled(name):
    """The parts of a C++ name such as N9mindspore6kernel9AddAscendE."""
    parts, rest = [], name[1:]
    while rest[:1].isdigit():
        digits = re.match(r"\d+", rest).group()
        start, end = len(digits), len(digits) + int(digits)
        parts.append(rest[start:end])
        rest = rest[end:]
    return parts


@pytest.fixture(scope="module")
def kernels():
    """Operators for which the plugin has a kernel: of the NPU (aclnn), of its AICPU, or of the messages (HCCL)."""
    names = {m.decode() for m in re.findall(rb"N9mindspore6kernel[A-Za-z0-9_]+(?=E\0)", KERNELS.read_bytes())}
    classes = {mangled(name)[-1] for name in names if len(mangled(name)) > 2}
    found = {name[: -len("Ascend")] for name in classes if name.endswith("Ascend")}
    found |= {m for name in names for m in re.findall(r"Aclnn([A-Za-z0-9]+)KernelMod", name)}
    found |= {m for name in classes for m in re.findall(r"^Hcom([A-Za-z]+)Kernel$", name)}
    table = map(json.loads, (PACKAGE / "config/op_info.config").read_text(encoding="utf-8").splitlines())
    return found | {row["op_name"] for row in table if row["imply_type"] == "AiCPU"}


@pytest.fixture(scope="module")
def adapters():
    """The names that stand in the library with the adapters of CANN's graph engine."""
    return {name.decode() for name in re.findall(rb"(?<=\0)[A-Z][A-Za-z0-9]+(?=\0)", ADAPTERS.read_bytes())}


def missing(primitives, kernels, adapters):
    return primitives - COMPILER - kernels - (THROUGH_CANN & adapters)


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    """A function giving the primitives of the graphs that were compiled so far in this test, after all optimisation."""
    before = ms.get_context("save_graphs"), ms.get_context("save_graphs_path")
    monkeypatch.setenv("MS_DEV_DUMP_IR_PASSES", "validate")
    ms.set_context(save_graphs=1, save_graphs_path=str(tmp_path))

    def primitives():
        found = set()
        for file in tmp_path.rglob("*_validate_*.ir"):
            text = file.read_text(encoding="utf-8", errors="replace")
            found |= set(re.findall(r"^ +%\d+\([^)]*\) = (?:PrimFunc_)?([A-Z]\w*)\(", text, re.MULTILINE))
        return found

    yield primitives
    ms.set_context(save_graphs=before[0], save_graphs_path=before[1])


@jit_class
class Half:
    """Stands for a message between two workers that have the same numbers."""

    def __call__(self, x):
        return 2 * x


class Two(Workers):
    """Two workers in one process: what is compiled around their messages."""

    def __init__(self):
        super().__init__(0, 1)
        self.size = 2
        self.all_reduce = Half()

    def gradient_reducer(self, parameters):
        return None

    def check_equal(self, digest, what):
        pass


class Residual(nn.Cell):
    """The layers of all networks of `src/models/`, two blocks deep."""

    def __init__(self):
        super().__init__()
        self.resnet = ResNet(BasicBlock, [1, 1], [64, 8], "imagenet", 4, 1)

    def construct(self, x):
        return self.resnet(x)


IMAGES = Tensor(np.random.default_rng(0).standard_normal((8, 1, 16, 16)).astype(np.float32))
LABELS = Tensor(np.arange(8, dtype=np.int32) % 4)


def train(steps=3, solver="gram", nesterov=False, amp=None, parts=1, ema=False, workers=None):
    """Steps of all kinds: plain, ranked, and a mask update with its dense gradient."""
    network = Residual().set_train()
    optimizer = build_optimizer(network, [0.1] * steps, 0.9, nesterov, 1e-4)
    pruner = Pruner(prunable_weights(network), PruningSchedule(9, 3, 0.1, 0.3, 0.8, 0.85))
    trained, options = network, {}
    if amp:
        trained = mixed_precision(network, amp)
    if workers:
        synchronise(trained, workers)
        options["workers"] = workers
    task = TaskLoss(trained, nn.CrossEntropyLoss(label_smoothing=0.1))
    objective = RPGWithLossCell(task, build_rank_term(solver, 0.2), 0.5, convolution_weights(network))
    extras = Extras(
        LossScale() if amp else None,
        GradientAccumulator(optimizer.parameters, parts) if parts > 1 else None,
        WeightAverage(network, 0.9) if ema else None,
    )
    step = TrainStep(task, optimizer, Pruning(pruner, objective, 2), extras, **options)
    for _ in range(steps):
        loss = float(step(IMAGES, LABELS))
    assert np.isfinite(loss)


LARGE = {"amp": "O2", "parts": 2, "ema": True, "nesterov": True, "workers": True}


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="plain, ranked, update"),
        pytest.param(LARGE, id="AMP, accumulation, averages, synchronised BatchNorm", marks=pytest.mark.slow),
    ],
)
def test_every_primitive_of_the_steps_is_registered_for_ascend(compiled, kernels, adapters, settings):
    train(**{**settings, "workers": Two() if settings.get("workers") else None})
    primitives = compiled()
    assert {"ApplyMomentum", "Conv2D", "Conv2DBackpropFilter", "MaxPoolGrad"} <= primitives
    assert missing(primitives, kernels, adapters) == set()


@pytest.mark.parametrize("name", ["momentum", "adamw", "lion"])
def test_every_primitive_of_optimisers_and_clipping_is_registered_for_ascend(name, compiled, kernels, adapters):
    layer = nn.Dense(3, 4)
    optimizer = build_optimizer(layer, [0.1, 0.1], 0.9, False, 1e-4, name)

    @ms.jit
    def train(*gradients):
        return optimizer(clip_by_global_norm(gradients, 0.5))

    train(*(Tensor(np.ones(parameter.shape, np.float32)) for parameter in optimizer.parameters))
    primitives = compiled()
    assert {"momentum": "ApplyMomentum", "adamw": "Adam", "lion": "Sign"}[name] in primitives
    assert missing(primitives, kernels, adapters) == set()


def test_every_primitive_of_evaluation_is_registered_for_ascend(compiled, kernels, adapters):
    evaluator = Evaluator(Residual(), 8)
    evaluator.network.set_train(False)
    evaluator.count(IMAGES, LABELS)
    primitives = compiled()
    assert {"Conv2D", "MatMul", "GatherD"} <= primitives
    assert missing(primitives, kernels, adapters) == set()


def test_messages_are_registered_and_what_is_not_is_told(kernels, adapters):
    assert kernels >= MESSAGES
    assert missing({"Mul", "Svd", "NoSuchOperator", "Conv2D"}, kernels, adapters) == {"Svd", "NoSuchOperator"}
    assert "Svd" in adapters  # it does have an adapter, and nothing else


def test_the_svd_solver_is_refused_on_ascend_in_one_line(monkeypatch):
    monkeypatch.setattr(rpg_cell, "current_target", lambda: "Ascend")
    with pytest.raises(InputError, match=r"^rank_solver: svd .*Ascend.*; use gram$"):
        build_rank_term("svd", 0.2)
    assert type(build_rank_term("auto", 0.2)).__name__ == "GramRankTerm"

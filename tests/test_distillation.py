"""Distillation: the loss by its formula, a teacher that nothing changes, and runs that go on with the same one."""

import shutil

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from tiny_train import Tiny

from src.config.command_line import load_config
from src.models import MODELS
from src.platform.errors import InputError
from src.run.build import build_parts
from src.run.trainer import Trainer
from src.training.distillation import Distillation
from src.training.train_step import TaskLoss
from src.weights.checkpoint import read_checkpoint


class Teacher(nn.Cell):
    """BatchNorm, whose outputs depend on the mode, before a dense layer."""

    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(1)
        self.dense = nn.Dense(64, 10)

    def construct(self, images):
        return self.dense(self.bn(images).reshape(len(images), -1))


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.parametrize(("weight", "temperature"), [(0.3, 4.0), (1.0, 1.0), (0.7, 0.5)])
def test_the_loss_is_the_formula(weight, temperature, rng):
    own, told = (3 * rng.standard_normal((6, 10)) for _ in range(2))
    labels = rng.integers(0, 10, 6)
    network, teacher = nn.Identity(), nn.Dense(10, 10, "zeros", has_bias=False)
    teacher.weight.set_data(Tensor(np.float32(told.T @ np.linalg.pinv(own.T))))  # turns `own` into `told`
    task = TaskLoss(network, nn.CrossEntropyLoss(), Distillation(teacher, weight, temperature))
    loss = float(task(Tensor(np.float32(own)), Tensor(np.int32(labels))))
    entropy = -np.log(softmax(own)[np.arange(6), labels]).mean()
    taught, learnt = softmax(told / temperature), softmax(own / temperature)
    divergence = (taught * np.log(taught / learnt)).sum(1).mean()
    assert loss == pytest.approx((1 - weight) * entropy + weight * temperature**2 * divergence, rel=1e-4)


def test_the_teacher_sees_each_image_as_in_evaluation_and_stays_as_it_is(rng):
    teacher = Teacher().set_train()
    teacher.bn.moving_mean.set_data(Tensor(np.float32([0.5])))
    distillation = Distillation(teacher, 1.0, 2.0)
    before = {parameter.name: parameter.asnumpy().copy() for parameter in teacher.get_parameters()}
    assert all(name.startswith("teacher.") for name in before)
    task = TaskLoss(Teacher().set_train(), nn.CrossEntropyLoss(), distillation)
    gradient = ms.value_and_grad(task, None, task.trainable_params())
    assert not any(parameter.name.startswith("teacher.") for parameter in task.trainable_params())
    images = Tensor(np.float32(rng.standard_normal((4, 1, 8, 8))))
    gradient(images, Tensor(np.int32([0, 1, 2, 3])))
    for parameter in teacher.get_parameters():
        assert np.array_equal(parameter.asnumpy(), before[parameter.name]), parameter.name
    alone = np.concatenate([teacher(images[i : i + 1]).asnumpy() for i in range(4)])
    assert teacher(images).asnumpy() == pytest.approx(alone, abs=1e-5)


@pytest.fixture
def teacher(small_run, tmp_path, monkeypatch):
    """Checkpoint of a small network that has seen the digits for an epoch."""
    monkeypatch.setitem(MODELS, "resnet20", Tiny)
    Trainer(small_run(method="dense", epoch_size=1, output_path=str(tmp_path / "dense"))).run()
    return tmp_path / "dense" / "last.ckpt"


def test_a_run_learns_from_its_teacher_and_goes_on_with_it(teacher, small_run, tmp_path):
    settings = {"teacher": str(teacher), "teacher_weight": 0.4, "temperature": 3.0, "sparsity": 0.8}
    parts = build_parts(small_run(**settings))
    distillation = parts.step.task.distillation
    assert (distillation.weight, distillation.temperature) == (0.4, 3.0)
    stored = read_checkpoint(teacher)[0]
    for parameter in distillation.teacher.get_parameters():
        assert np.array_equal(parameter.asnumpy(), stored[parameter.name.removeprefix("teacher.")])

    whole = Trainer(small_run(**settings)).run()
    plain = Trainer(small_run(sparsity=0.8, output_path=str(tmp_path / "plain"))).run()
    assert whole["last"]["loss"] != plain["last"]["loss"]

    class Cut(Exception):
        pass

    run = Trainer(small_run(**settings, output_path=str(tmp_path / "cut")))
    finish = run._finish_epoch

    def cut(metrics):
        finish(metrics)
        raise Cut

    run._finish_epoch = cut
    with pytest.raises(Cut):
        run.run()
    again = {**settings, "output_path": str(tmp_path / "cut"), "resume_ckpt": "auto"}
    other = tmp_path / "other.ckpt"
    shutil.copy(tmp_path / "plain" / "last.ckpt", other)
    with pytest.raises(InputError, match=r"teacher: not that of the run in .*: teacher weights is .* in the run"):
        Trainer(small_run(**{**again, "teacher": str(other)}, force=True)).run()
    Trainer(small_run(**again)).run()
    one, two = (read_checkpoint(tmp_path / name / "last.ckpt")[0] for name in ("run", "cut"))
    assert one.keys() == two.keys()
    assert all(one[name].tobytes() == two[name].tobytes() for name in one)
    assert not any("teacher" in name for name in one)


def test_a_teacher_of_other_data_is_refused(teacher, small_run, tmp_path):
    with pytest.raises(InputError, match=r"teacher: .*last\.ckpt knows other data: image_shape is \(1, 8, 8\), here"):
        build_parts(small_run(dataset="cifar10", dry_run=True, teacher=str(teacher)))
    with pytest.raises(InputError, match=r"command line: teacher: cannot read .*nothere\.ckpt: No such file"):
        load_config(["--dry_run", "--teacher", str(tmp_path / "nothere.ckpt")])
    with pytest.raises(InputError, match="nothere"):
        build_parts(small_run(teacher=str(tmp_path / "nothere.ckpt")))

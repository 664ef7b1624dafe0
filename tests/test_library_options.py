"""RPG.train_step's options: each against a plain computation of what it promises."""

import re

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from src.library import RPG
from src.platform.errors import InputError
from src.training import history

BATCH = (
    Tensor(np.random.default_rng(0).standard_normal((8, 1, 6, 6)).astype(np.float32)),
    Tensor(np.arange(8, dtype=np.int32) % 4),
)


class Net(nn.Cell):
    """A convolution and a dense layer, without BatchNorm: a batch in parts is the same as in one.

    It has a whole number among its parameters, as detectors do, which nothing may average or cast.
    """

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 8, 3), nn.Dense(8, 4)
        self.stride = Parameter(Tensor([8], ms.int32), requires_grad=False)

    def construct(self, x):
        return self.head(ops.tanh(self.conv(x)).mean((2, 3)))


def build(loss_fn=None, settings=None, momentum=0.9, **options):
    """(network, RPG, step) over 6 steps with updates at the second and fourth."""
    ms.set_seed(0)
    network = Net()
    settings = {"sparsity": 0.8, "update_interval": 2, "prune_window": 0.7, "update_end": 0.7, **(settings or {})}
    pruning = RPG(network, 6, **settings)
    optimizer = nn.Momentum(network.trainable_params(), 0.1, momentum)
    return network, pruning, pruning.train_step(loss_fn or nn.CrossEntropyLoss(), optimizer, **options)


def values(network):
    return {parameter.name: parameter.asnumpy().copy() for parameter in network.get_parameters()}


def test_a_batch_in_parts_moves_the_weights_as_in_one():
    """Also with the rank term in every step, which only the last part carries."""
    settings = {"rank_interval": 1, "rank_weight": 2.0, "tail_energy": 0.3}
    runs = [build(settings=settings, **options) for options in ({}, {"accumulation_steps": 4})]
    losses = [[float(step(*BATCH)) for _ in range(6)] for _, _, step in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    whole, parts = (values(network) for network, _, _ in runs)
    assert all(np.allclose(parts[name], whole[name], atol=1e-5) for name in whole)
    masks = [pruning.masks for _, pruning, _ in runs]
    assert all(np.array_equal(masks[1][name], masks[0][name]) for name in masks[0])


def test_gradients_are_cut_down_to_a_norm_that_all_have_together():
    runs = [build(momentum=0.0, grad_clip=clip) for clip in (0, 1e-3)]
    before = values(runs[0][0])
    for _, _, step in runs:
        step(*BATCH)
    whole, clipped = ({name: before[name] - value for name, value in values(network).items()} for network, _, _ in runs)
    norm = np.sqrt(sum(((change / 0.1) ** 2).sum() for change in whole.values()))
    assert norm > 2e-3
    assert all(np.allclose(clipped[name], whole[name] * (1e-3 / norm), atol=1e-7) for name in whole)


def test_the_average_follows_the_weights_and_the_masks(tmp_path):
    network, pruning, step = build(ema_decay=0.5)
    expected = values(network)
    for count in range(1, 7):
        step(*BATCH)
        now = values(network)
        if not pruning.pruner.is_update(count):
            rate = 1 - min(0.5, (1 + count) / (10 + count))
            expected = {name: average + rate * (now[name] - average) for name, average in expected.items()}
        for name, mask in pruning.masks.items():
            expected[name] = expected[name] * mask
    own = values(network)
    with pruning.averaged():
        averages = values(network)
        pruning.check()
    assert all(np.allclose(averages[name], expected[name], atol=1e-6) for name in expected)
    assert any(not np.allclose(averages[name], own[name], atol=1e-4) for name in own)
    assert all(np.array_equal(values(network)[name], own[name]) for name in own)

    pruning.save_deployable(tmp_path / "net.ckpt", (1, 6, 6), 4)
    written = ms.load_checkpoint(str(tmp_path / "net.ckpt"))
    assert all(np.array_equal(written[name].asnumpy(), averages[name]) for name in averages)

    pruning.save(tmp_path / "state.ckpt")
    for average in pruning._average.averages:
        ops.assign(average, ops.zeros_like(average))
    pruning.restore(tmp_path / "state.ckpt")
    with pruning.averaged():
        assert all(np.array_equal(values(network)[name], averages[name]) for name in averages)


def test_mixed_precision_computes_in_half_on_weights_that_stay_whole():
    network, pruning, step = build(amp_level="O3")
    expected = float(nn.CrossEntropyLoss()(network(BATCH[0]), BATCH[1]))
    first = float(step(*BATCH))
    assert 1e-6 < abs(first - expected) < 1e-2  # rounded to 11 bits, no more and no less
    for _ in range(5):
        step(*BATCH)
    pruning.check()
    assert all(parameter.dtype == ms.float32 for parameter in network.trainable_params())
    assert network(BATCH[0]).dtype == ms.float32


def test_a_step_that_overflows_is_skipped_and_the_scale_travels_with_the_state(tmp_path):
    class Steep(nn.Cell):
        """So steep that its gradient, times the first loss scale, is beyond float16."""

        def construct(self, output, label):
            return 20 * ops.cross_entropy(output, label)

    network, pruning, step = build(Steep(), amp_level="O2")
    before = values(network)
    step(*BATCH)
    scale = pruning._state.named["other.loss_scale.value"]
    assert float(scale) == 2.0**15
    assert all(np.array_equal(values(network)[name], before[name]) for name in before)
    pruning.save(tmp_path / "state.ckpt")
    ops.assign(scale, Tensor(8.0))
    pruning.restore(tmp_path / "state.ckpt")
    assert float(scale) == 2.0**15

    with pytest.raises(InputError, match="amp_level was 'O2', is 'O0'"):
        build(Steep())[1].restore(tmp_path / "state.ckpt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"amp_level": "O1"}, "amp_level: one of O0, O2, O3, auto, not 'O1'"),
        ({"accumulation_steps": 0}, "accumulation_steps: a whole number of at least 1, not 0"),
        ({"accumulation_steps": 1.5}, "accumulation_steps: a whole number"),
        ({"grad_clip": -1}, "grad_clip: a number of at least 0, not -1"),
        ({"grad_clip": float("nan")}, "grad_clip: a number of at least 0, not nan"),
        ({"ema_decay": 1.0}, "ema_decay: at least 0 and below 1, not 1.0"),
        ({"ema_decay": "0.9"}, "ema_decay: at least 0"),
    ],
)
def test_options_that_make_no_sense_are_named(options, message):
    with pytest.raises(InputError, match=re.escape(message)):
        build(**options)


def test_a_batch_that_does_not_divide_is_named():
    _, _, step = build(accumulation_steps=3)
    with pytest.raises(InputError, match=r"a batch of 8 does not divide into accumulation_steps 3 .*drop_remainder"):
        step(*BATCH)
    assert step.inner.step == 0


def test_the_history_has_the_mean_loss_since_the_line_before_and_goes_on_after_a_stop(tmp_path, monkeypatch):
    _, pruning, step = build()
    losses = []
    for count in range(1, 7):
        losses.append(float(step(*BATCH)))
        if count == 3:
            pruning.save(tmp_path / "state.ckpt")
    lines = list(step.history.lines)
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert [line["train_loss"] for line in lines] == pytest.approx(np.reshape(losses, (3, 2)).mean(1).tolist())
    assert [line["density"] for line in lines] == pytest.approx([0.2**0.5, 0.2, 0.2], abs=0.01)
    assert all(line["rank_loss"] < 0 <= line["drop_fraction"] for line in lines)
    assert lines[0]["drop_fraction"] > 0
    pruning.restore(tmp_path / "state.ckpt")
    assert step.history.lines == lines[:1]
    for _ in range(3):
        step(*BATCH)
    assert step.history.lines == lines

    monkeypatch.setattr(history, "MOST_LINES", 2)
    assert history.History(step.inner, pruning.pruner, 2).every == 4  # every second update
    assert history.History(step.inner, pruning.pruner, 100).every == 6  # once at least


def test_a_report_of_the_training(tmp_path):
    _, pruning, step = build()
    for _ in range(6):
        step(*BATCH)
    paths = pruning.write_report(tmp_path)
    assert sorted(path.name for path in paths) == ["curves.png", "layers.png", "report.html"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Own network: rpg, 80\u00a0% sparsity" in page
    assert f"{pruning.report()['nonzeros']} of 104 weights left" in page
    with pytest.raises(InputError, match="already holds a report"):
        pruning.write_report(tmp_path)
    pruning.write_report(tmp_path, overwrite=True)

"""Random configurations and damaged files: whatever comes, an InputError or success, never another exception."""

import binascii
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from src.config.command_line import load_config
from src.config.keys import Config, resolve
from src.data import cifar10
from src.data.cifar import read_binary
from src.export.deployed import Interface
from src.export.inference import read_image
from src.models import build_model
from src.platform.errors import InputError
from src.pruning.methods import METHODS
from src.run.build import build_parts
from src.run.plan import format_plan
from src.weights.checkpoint import read_checkpoint, write_checkpoint, write_network
from src.weights.pretrained import read_weights
from src.weights.trained import load_trained

DATA = Path(__file__).parent / "data"
TRAILER = 17  # bytes of a checkpoint's checksum and its mark

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["auto", "1e3"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)
keys = st.sampled_from(sorted(Config.model_fields)) | st.text(max_size=6) | st.integers()

# Values that are mostly possible one by one; together they may contradict each other.
share = st.floats(0, 1) | st.sampled_from([0.0, 0.5, 0.9, 0.98, 0.9999])
plausible = st.fixed_dictionaries(
    {},
    optional={
        "dataset": st.sampled_from(["digits", "cifar10", "cifar100", "imagenet"]),
        "batch_size": st.integers(1, 3000),
        "epoch_size": st.integers(1, 60),
        "lr": st.floats(1e-6, 1e6),
        "warmup_epochs": st.floats(0, 100),
        "momentum": share,
        "label_smoothing": share,
        "ema_decay": share,
        "accumulation_steps": st.integers(1, 4),
        "method": st.sampled_from(sorted(METHODS)),
        "sparsity": share,
        "distribution": st.sampled_from(["auto", "global", "uniform", "erk"]),
        "min_layer_density": st.sampled_from([0.0, 0.0, 1e-9, 0.001, 0.02, 0.5]),
        "update_interval": st.integers(1, 3000),
        "drop_fraction": share,
        "prune_window": share,
        "update_end": share,
        "rank_weight": st.floats(0, 10),
        "tail_energy": share,
        "rank_interval": st.integers(0, 5),
        "pretrained": st.sampled_from(["", "none.ckpt", "/"]),
        "data_path": st.sampled_from(["", "", "nowhere", "/"]),
    },
)


def allowed(function, *arguments):
    """The result, or None after an InputError; any other exception passes."""
    try:
        return function(*arguments)
    except InputError:
        return None


@given(st.dictionaries(keys, anything, max_size=6), st.dictionaries(keys, st.text(max_size=6), max_size=2))
@settings(max_examples=100)
def test_any_settings(values, given):
    allowed(resolve, values, {key: value for key, value in given.items() if isinstance(key, str)})


@given(plausible | st.dictionaries(keys, anything, max_size=4), st.lists(st.text(max_size=12), max_size=3))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_configuration_file_and_command_line(tmp_path, values, words):
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    words = [word for word in words if word not in ("-h", "--help")]
    config = allowed(load_config, ["--config_path", str(file), *words])
    if config is not None:
        assert allowed(resolve, dict(config)) == config  # what is resolved is valid, and stays as it is


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_for_a_configuration_file(tmp_path, content):
    file = tmp_path / "c.yaml"
    file.write_bytes(content)
    allowed(load_config, ["--config_path", str(file)])


def plan(values):
    return format_plan(build_parts(resolve({**values, "dry_run": True})))


@given(plausible)
@example({"prune_window": 5e-324})
@settings(max_examples=8)
def test_any_plan(values):
    allowed(plan, values)


@pytest.mark.slow
@given(plausible)
@settings(max_examples=300)
def test_any_plan_at_length(values):
    allowed(plan, values)


def damage(content):
    """A strategy of changed contents: bits flipped, bytes replaced, cut off, doubled."""
    place = st.integers(0, max(len(content) - 1, 0))

    def flip(bits):
        changed = bytearray(content)
        for position, bit in bits:
            changed[position] ^= 1 << bit
        return bytes(changed)

    return (
        st.lists(st.tuples(place, st.integers(0, 7)), min_size=1, max_size=4).map(flip)
        | place.map(lambda end: content[:end])
        | st.tuples(place, st.binary(max_size=8)).map(lambda p: content[: p[0]] + p[1] + content[p[0] + len(p[1]) :])
        | st.tuples(place, place).map(lambda p: content[: max(p)] + content[min(p) :])
    )


def with_checksum(body):
    return body + b"crc_num" + binascii.crc32(body).to_bytes(10, "big")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small checkpoint whose description counts as much as its tensors."""
    path = tmp_path_factory.mktemp("fuzz") / "small.ckpt"
    tensors = {"a.weight": np.ones((2, 3), np.float32), "n": np.array([7], np.int32)}
    write_checkpoint(path, tensors, {"model": {"name": "resnet20"}, "step": 3, "classes": ["a"]})
    return path


@pytest.mark.parametrize("examples", [150, pytest.param(3000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("checked", [True, False], ids=["as it is", "with a matching checksum"])
def test_damaged_checkpoints(checkpoint, examples, checked):
    content = checkpoint.read_bytes()
    body = content[:-TRAILER]
    file = checkpoint.with_name("damaged.ckpt")

    @settings(max_examples=examples, database=None)
    @given(damage(content) if checked else damage(body).map(with_checksum))
    def run(damaged):
        file.write_bytes(damaged)
        if allowed(read_checkpoint, file) is not None and checked:
            assert damaged == content  # damage never passes the checksum
        allowed(read_weights, file)
        allowed(load_trained, file)

    run()


descriptions = st.fixed_dictionaries(
    {},
    optional={
        "model": anything
        | st.fixed_dictionaries(
            {"name": st.just("resnet20") | anything},
            optional={"num_classes": anything | st.just(10), "in_channels": anything | st.just(1), "x": anything},
        ),
        "config": anything | st.dictionaries(keys.filter(lambda key: isinstance(key, str)), anything, max_size=3),
        "image_shape": anything | st.just([1, 8, 8]),
        "classes": anything,
        "nonzeros": anything,
    },
)


@pytest.mark.parametrize("examples", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_descriptions_that_say_anything(tmp_path, examples):
    file = tmp_path / "x.ckpt"
    tensors = {"a": np.ones(2, np.float32)}

    @settings(max_examples=examples, database=None)
    @given(descriptions | anything)
    def run(description):
        write_checkpoint(file, tensors, json.loads(json.dumps(description)))
        allowed(load_trained, file)

    run()


def test_a_description_that_fits_is_taken(tmp_path):
    architecture = {"name": "resnet20", "num_classes": 10, "in_channels": 1}
    description = {"model": architecture, "config": {}, "image_shape": [1, 8, 8]}
    write_network(tmp_path / "x.ckpt", build_model(**architecture), description)
    assert load_trained(tmp_path / "x.ckpt").config.model == "resnet20"


@pytest.mark.parametrize("examples", [60, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["torch_zip.pth", "torch_legacy.pth"])
def test_damaged_pytorch_files(tmp_path, name, examples):
    content = (DATA / name).read_bytes()

    @settings(max_examples=examples, database=None)
    @given(damage(content))
    def run(damaged):
        (tmp_path / name).write_bytes(damaged)
        allowed(read_weights, tmp_path / name)

    run()


@given(st.binary(max_size=200) | st.integers(0, 3).map(lambda n: bytes(3073 * n)) | damage(bytes(3073 * 2)))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_for_a_cifar_file(tmp_path, content):
    (tmp_path / "test_batch.bin").write_bytes(content)
    found = allowed(read_binary, tmp_path, cifar10.FOLDER, ["test_batch.bin"], 1, 10)
    if found is not None:
        images, labels = found
        assert len(images) == len(labels) == len(content) / 3073
        assert 0 <= labels.min() <= labels.max() < 10


@pytest.mark.filterwarnings("ignore")  # Pillow warns of odd metadata
@pytest.mark.parametrize("examples", [100, pytest.param(3000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "BMP"])
def test_damaged_pictures(tmp_path, kind, examples):
    file = tmp_path / "x"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)).save(file, kind)
    content = file.read_bytes()
    interface = Interface((3, 8, 8), 1, (0.0,) * 3, (1.0,) * 3, False, False, 1.0, ("a",))

    @settings(max_examples=examples, database=None)
    @given(damage(content))
    def run(damaged):
        file.write_bytes(damaged)
        picture = allowed(read_image, file, interface)
        assert picture is None or picture.shape == (3, 8, 8)

    run()

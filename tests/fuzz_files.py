"""Readers run on files of `hostile_files`, within limits: python tests/fuzz_files.py KIND COUNT FOLDER

An InputError or success is well, if it takes seconds and a gigabyte at most; anything else is a find, and the program
ends with it (code 1, or by a signal); the file is then in the folder. Prints how many files were taken and refused.
"""

import io
import resource
import signal
import sys
import time
from collections import Counter
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import src  # noqa: F401,I001  sets the environment before mindspore loads

import mindspore as ms
import numpy as np
from hypothesis import HealthCheck, given, settings
from mindspore import nn

from src.config.files import read_yaml
from src.config.keys import resolve
from src.export import onnx_file
from src.export.inference import Classifier, read_image
from src.export.mindir import put_metadata
from src.export.packed import unpack
from src.export.sparse.graph import read_onnx
from src.models import MODELS
from src.platform.device import select_device
from src.platform.errors import InputError
from src.run.trainer import Trainer
from src.weights.checkpoint import read_checkpoint, write_network
from src.weights.naming import identify
from src.weights.pretrained import read_weights
from src.weights.trained import load_trained
from tests.hostile_files import INTERFACE, KINDS
from tests.tiny_train import Tiny

SECONDS = 20
GRACE = 5  # more, before what is at work is interrupted
BYTES = 1 << 30
SUFFIXES = {"pth": ".pth", "safetensors": ".safetensors", "onnx": ".onnx", "mindir": ".mindir"}


class Find(Exception):
    """What no file may lead to."""


def fuzz(kind, folder, count):
    """Run the readers of a kind on `count` files, written one after the other to `folder`; a Counter of outcomes."""
    whole, reader = PREPARE[kind](Path(folder))
    file = Path(folder) / f"hostile{SUFFIXES.get(kind, '')}"
    outcomes = Counter()

    @settings(max_examples=count, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(KINDS[kind](whole))
    def run(content):
        file.write_bytes(content)
        outcomes[judge(reader, file)] += 1

    run()
    return outcomes


def judge(reader, file):
    """Whether a reader takes a file ("taken") or refuses it ("refused"), as it should; all else is raised."""
    begin = time.process_time()  # which does not run while others have the processor
    try:
        with limits():
            reader(file)
        outcome = "taken"
    except InputError as error:
        cause, outcome = error, "refused"
        while cause is not None:
            if isinstance(cause, MemoryError):
                raise Find(f"too much memory: {error}") from error
            cause = cause.__context__
    if time.process_time() - begin > SECONDS:  # in a library, which no signal interrupts
        raise Find(f"more than {SECONDS} seconds")
    return outcome


@contextmanager
def limits():
    """Inside, this process has BYTES more than it has now, and SECONDS of processor time."""

    def late(*_):
        raise Find(f"more than {SECONDS} seconds")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = signal.signal(signal.SIGPROF, late)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BYTES, hard))
    signal.setitimer(signal.ITIMER_PROF, SECONDS + GRACE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


# For each kind: what its strategy begins with, and a reader.


def _state(folder):
    path = folder / "hostile"
    config = resolve({"output_path": str(folder), "resume_ckpt": str(path), "update_interval": 20})
    trainer = Trainer(config)
    trainer.saver.save()
    whole = read_checkpoint(trainer.folder.resume)
    trainer.folder.resume.rename(path)

    def read(_):
        with redirect_stderr(io.StringIO()):  # what it says of going on
            trainer.saver.resume()

    read(path)  # MindSpore takes a gigabyte once
    return whole, read


def _checkpoint(folder):
    architecture = {"name": "resnet20", "num_classes": 10, "in_channels": 1}
    description = {
        "model": architecture,
        "config": dict(resolve({})),
        "image_shape": [1, 8, 8],
        "classes": list("0123456789"),
    }
    description["data"] = {"mean": [0.5], "std": [0.5], "crop": 1.0}
    write_network(folder / "whole.ckpt", Tiny(10, 1), description)

    def read(path):
        read_weights(path)
        load_trained(path)

    read(folder / "whole.ckpt")  # MindSpore takes a gigabyte once
    return read_checkpoint(folder / "whole.ckpt"), read


def _weights(_):
    def read(path):
        tensors = read_weights(path)
        with suppress(InputError):  # of no network that there is
            identify(tensors)

    return None, read


def _onnx(_):
    images = INTERFACE.random_images()

    def read(path):
        try:
            read_onnx(path)
        except InputError:  # what the sparse runtime does not know, onnxruntime may
            Classifier(path)(images)

    return None, read


def _mindir(folder):
    network = nn.SequentialCell(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Dense(32, 2))

    def add(model):
        put_metadata(model.user_info, INTERFACE.to_metadata())

    ms.export(network, INTERFACE.signature(), file_name=str(folder / "whole"), file_format="MINDIR", custom_func=add)
    images = INTERFACE.random_images()
    Classifier(folder / "whole.mindir")(images)
    return (folder / "whole.mindir").read_bytes(), lambda path: Classifier(path)(images)


PREPARE = {
    "checkpoint": _checkpoint,
    "state": _state,
    "packed": lambda _: (None, unpack),
    "pth": _weights,
    "safetensors": _weights,
    "yaml": lambda _: (None, lambda path: resolve(read_yaml(path))),
    "onnx": _onnx,
    "mindir": _mindir,
    "picture": lambda _: (None, lambda path: read_image(path, INTERFACE)),
}


def main():
    """Fuzz the readers of the kind on the command line."""
    kind, count, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    select_device("CPU")
    MODELS["resnet20"] = Tiny
    onnx_file.MOST_MEMORY = BYTES // 4  # reached sooner
    np.seterr(all="ignore")
    outcomes = fuzz(kind, folder, count)
    print(f"{kind}: {outcomes.total()} files, {outcomes['taken']} taken, {outcomes['refused']} refused")


if __name__ == "__main__":
    main()

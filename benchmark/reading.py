"""How long files take to read, as a ratio to the code before its readers were guarded against hostile files.

python benchmark/reading.py [--before COMMIT] [--repeats 9]: a ResNet-50 at 98 % as checkpoint, PACKED and .pth, read by
both in turn; the least processor time of each. Needs git, and the history of the repository.
"""

import collections
import io
import pickle
import subprocess
import sys
import tempfile
import time
import types
import zipfile
from importlib import import_module
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common import start
from mindspore import load_checkpoint
from random_checkpoint import write_random_checkpoint
from tabulate import tabulate

from src.export.packed import pack, unpack
from src.platform.command_line import Parser, positive
from src.platform.errors import InputError, run_program
from src.weights.checkpoint import read_any_checkpoint
from src.weights.naming import to_torch
from src.weights.torch_files import read_torch

ROOT = Path(__file__).resolve().parent.parent
BEFORE = "7917ac4"


def main():
    """Measure and print the table."""
    parser = Parser("Time of reading files, as a ratio to that of an earlier commit.")
    parser.add_argument("--before", default=BEFORE, metavar="COMMIT")
    parser.add_argument("--repeats", type=positive, default=9)
    arguments = parser.parse_args()
    start(f"Reading a ResNet-50, least processor time of {arguments.repeats}, against commit {arguments.before}")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        files = write_files(folder)
        unpack_commit(arguments.before, folder / "before_guards")
        sys.path.insert(0, str(folder))
        rows = []
        for name, reader, module in (
            ("checkpoint", read_any_checkpoint, "weights.checkpoint"),
            ("PACKED", unpack, "export.packed"),
            (".pth", read_torch, "weights.torch_files"),
        ):
            before = getattr(import_module(f"before_guards.{module}"), reader.__name__)
            readers = {"now": reader, "before": before}
            if name == "checkpoint":
                readers["mindspore"] = lambda path: load_checkpoint(str(path))
            seconds = least_seconds(readers, files[name], arguments.repeats)
            size = files[name].stat().st_size / 1e6
            ratio = seconds["now"] / seconds["before"]
            plain = 1000 * seconds["mindspore"] if "mindspore" in seconds else None
            rows.append([name, size, 1000 * seconds["now"], 1000 * seconds["before"], ratio, plain])
    head = ["file", "MB", "now ms", "before ms", "ratio", "mindspore.load_checkpoint ms"]
    print(tabulate(rows, head, floatfmt=("", ".1f", ".1f", ".1f", ".3f", ".1f")))


def write_files(folder):
    """The network as a file of each kind, by name."""
    files = {"checkpoint": folder / "a.ckpt", "PACKED": folder / "a.packed", ".pth": folder / "a.pth"}
    write_random_checkpoint(files["checkpoint"], "resnet50", 0.98)
    tensors, description = read_any_checkpoint(files["checkpoint"])
    files["PACKED"].write_bytes(pack(tensors, description))
    write_torch(files[".pth"], to_torch(tensors))
    return files


def write_torch(path, tensors):
    """What torch.save writes for float32 tensors, without PyTorch."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})

    def rebuild(*_):
        """Stands for PyTorch's function of that name."""

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = rebuild

    class Tensor:
        def __init__(self, storage, shape, strides):
            self.parts = storage, 0, shape, strides, False, collections.OrderedDict()

        def __reduce__(self):
            return rebuild, self.parts

    class Storage:
        def __init__(self, key, size):
            self.identifier = "storage", torch.FloatStorage, key, "cpu", size

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            return obj.identifier if isinstance(obj, Storage) else None

    state = {}
    with zipfile.ZipFile(path, "w") as archive:
        for index, (name, array) in enumerate(tensors.items()):
            archive.writestr(f"archive/data/{index}", array.tobytes())
            strides = tuple(step // array.itemsize for step in array.strides)
            state[name] = Tensor(Storage(str(index), array.size), array.shape, strides)
        file = io.BytesIO()
        with mock.patch.dict(sys.modules, {"torch": torch, "torch._utils": utils}):
            Pickler(file, protocol=2).dump(state)
        archive.writestr("archive/data.pkl", file.getvalue())


def unpack_commit(commit, folder):
    """The package as it was, under another name."""
    archive = subprocess.run(["git", "archive", commit, "src"], cwd=ROOT, capture_output=True)
    if archive.returncode:
        raise InputError(f"before: {commit}: {archive.stderr.decode(errors='replace')}")
    subprocess.run(["tar", "-x", "-C", folder.parent], input=archive.stdout, check=True)
    (folder.parent / "src").rename(folder)


def least_seconds(readers, path, repeats):
    """The least processor time of each reader (name -> function of a path), all run in turn."""
    seconds = dict.fromkeys(readers, float("inf"))
    for _ in range(repeats):
        for name, reader in readers.items():
            begin = time.process_time()
            reader(path)
            seconds[name] = min(seconds[name], time.process_time() - begin)
    return seconds


if __name__ == "__main__":
    run_program(main)

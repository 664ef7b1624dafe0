"""Images per second of the input pipelines beside the training step's: python benchmark/input_speed.py

Each pipeline runs alone, then the training step of its network alone, on one batch again and again. Where the input
is the slower of the two, training waits for it. Without --data_path the images are random ones in the real format.
A second table says what antialiasing costs: image files read by Pillow as here, and by MindSpore's own operations.
"""

import os
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import src  # noqa: E402,F401,I001  sets the environment before mindspore loads
from mindspore.dataset import ImageFolderDataset, vision  # noqa: E402
from tabulate import tabulate  # noqa: E402

from benchmark.random_data import write_cifar10, write_cifar100, write_imagenet  # noqa: E402
from src.run.build import build_parts  # noqa: E402
from src.platform.command_line import Parser, positive  # noqa: E402
from src.config.files import read_yaml  # noqa: E402
from src.config.keys import resolve  # noqa: E402
from src.data import imagenet, published_info  # noqa: E402
from src.data.sharding import Shard  # noqa: E402
from src.platform.device import select_device  # noqa: E402
from src.platform.errors import run_program  # noqa: E402

RECIPES = {"digits": "resnet20_digits", "cifar10": "cifar10", "cifar100": "cifar100", "imagenet": "imagenet"}
WRITERS = {
    "cifar10": lambda folder: write_cifar10(folder, 5000, 10),
    "cifar100": lambda folder: write_cifar100(folder, 5000, 10),
    "imagenet": lambda folder: write_imagenet(folder, 500, 1),
}


def main():
    """Measure the recipes on the command line."""
    parser = Parser("Images per second of the input pipelines, and of the training step.")
    parser.add_argument("--dataset", choices=tuple(RECIPES), help="measure this one (default: all, on random images)")
    parser.add_argument("--data_path", help="folder of the data set, instead of random images")
    parser.add_argument("--batch_size", type=positive, default=64)
    parser.add_argument("--num_workers", type=positive, default=os.cpu_count(), help="threads of the input pipeline")
    parser.add_argument("--seconds", type=positive, default=5, help="to measure each for, after the first batch")
    parser.add_argument("--device_target", default="auto", choices=("auto", "CPU", "GPU", "Ascend"))
    arguments = parser.parse_args()
    device = select_device(arguments.device_target)
    rows = [measure(name, arguments) for name in ([arguments.dataset] if arguments.dataset else RECIPES)]
    print(f"{device}, {os.cpu_count()} cores, {arguments.num_workers} input threads, batch {arguments.batch_size}")
    print(tabulate(rows, ["data set", "network", "input images/s", "step images/s", "input / step"]))
    if arguments.dataset in (None, "imagenet"):
        headers = [
            "image files",
            "antialiased images/s",
            "MindSpore's own",
            "CPU ms per image",
            "MindSpore's own",
            "ratio",
        ]
        print(f"\n{tabulate(compare_resizing(arguments), headers)}")


def measure(dataset, arguments):
    """A row of the table."""
    with data_folder(dataset, arguments) as data_path:
        config = resolve(
            read_yaml(ROOT / "config" / f"{RECIPES[dataset]}.yaml"),
            {
                "method": "dense",
                "data_path": str(data_path or ""),
                "batch_size": arguments.batch_size,
                "num_workers": arguments.num_workers,
            },
        )
        parts = build_parts(config)
        iterator = parts.data.train.epoch(0).create_tuple_iterator(num_epochs=10**6)
        batch = next(iterator)
        given = rate(lambda: next(iterator, None) or next(iterator), arguments)
        iterator = None  # stops its threads
        trained = rate(lambda: float(parts.step(*batch)), arguments)
    return [dataset, config.model, f"{given:,.0f}", f"{trained:,.0f}", f"{given / trained:.1f}"]


def compare_resizing(arguments):
    """Rows of the second table: the same files for training and for evaluation."""
    own = {
        "train": [vision.RandomCropDecodeResize(224), vision.RandomHorizontalFlip()],
        "test": [vision.Decode(), vision.Resize(256), vision.CenterCrop(224)],
    }
    normalize = vision.Normalize([255 * value for value in imagenet.MEAN], [255 * value for value in imagenet.STD])
    rows, workers = [], min(arguments.num_workers, os.cpu_count())
    with data_folder("imagenet", arguments) as data_path:
        info = published_info("imagenet")
        loaded = imagenet.load("train", data_path, info)
        for split, operations in own.items():
            antialiased = imagenet.dataset(loaded, split, info, workers, Shard(), 0)
            files = ImageFolderDataset(str(Path(data_path) / "train"), num_parallel_workers=workers, shuffle=True)
            picked = files.map([*operations, normalize, vision.HWC2CHW()], "image", num_parallel_workers=workers)
            rates, costs = zip(*(input_rate(data, arguments) for data in (antialiased, picked)))
            texts = *(f"{value:,.0f}" for value in rates), *(f"{value:.2f}" for value in costs)
            rows.append([split, *texts, f"{costs[0] / costs[1]:.1f}"])
    return rows


def input_rate(samples, arguments):
    """Images per second of a pipeline of samples, and the processor time that each takes on all threads, in ms."""
    batched = samples.batch(arguments.batch_size, drop_remainder=True)
    iterator = batched.create_tuple_iterator(num_epochs=10**6, output_numpy=True)
    counted = []
    used = time.process_time()
    images = rate(lambda: counted.append(len((next(iterator, None) or next(iterator))[1])), arguments)
    return images, 1000 * (time.process_time() - used) / sum(counted)


@contextmanager
def data_folder(dataset, arguments):
    """The folder given, or one of random images that goes when it is no longer needed."""
    with tempfile.TemporaryDirectory() as folder:
        given = arguments.data_path is not None or dataset not in WRITERS
        yield arguments.data_path if given else WRITERS[dataset](Path(folder) / dataset)


def rate(function, arguments):
    """Images per second of a function that handles one batch per call."""
    function()
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < arguments.seconds:
        function()
        calls += 1
    return calls * arguments.batch_size / (time.perf_counter() - start)


if __name__ == "__main__":
    run_program(main)

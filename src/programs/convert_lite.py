"""From an exported file to MindSpore Lite's .ms, compared with onnxruntime: what scripts/convert_lite.sh runs."""

import os
import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from ..data.batches import Batches, Batching, iterate
from ..export.files import new_file
from ..export.inference import Classifier
from ..export.int8 import as_input
from ..export.report import largest_deviation
from ..platform.command_line import Parser
from ..platform.errors import InputError, run_program
from ..platform.files import check_new
from ..weights.trained import load_trained

LITE = Path(__file__).resolve().parents[2] / "scripts" / "lite.py"
KINDS = {".onnx": "ONNX", ".mindir": "MINDIR"}
SUFFIXES = {32: ".ms", 16: ".fp16.ms", 8: ".int8.ms"}
IMAGES = 64  # at most that many are compared
# Of the largest logit. Half precision has 11 bits, and errors add up over the layers.
TOLERANCES = {32: 1e-4, 16: 1e-2}
# What the runtime of the wheel says of weights that it has decoded itself: see docs/edge.md.
_CANNOT_LOAD = "can not find tensor data in origin tensor data"


def main():
    """Convert the file on the command line, and compare where the runtime can."""
    arguments = parse()
    model, bits = Path(arguments.model), arguments.weight_bits
    classifier = Classifier(model)
    path = Path(arguments.file_name) if arguments.file_name else model.with_suffix(SUFFIXES[bits])
    if path.suffix != ".ms" or not path.parent.is_dir():
        raise InputError(f"file_name: {path} does not end in .ms, or its folder does not exist; choose another name")
    check_new(path, arguments.overwrite, "file_name")
    images, labels = compared_images(classifier.interface, arguments.ckpt)
    with new_file(path) as written, tempfile.TemporaryDirectory() as folder:
        written = written.resolve()  # its name under /proc is this process's own
        binary = os.environ.get("CONVERTER_LITE")
        if binary:
            run_converter(binary, model, written, bits, Path(folder))
        else:
            run_lite(arguments.lite_python, "convert", KINDS[model.suffix], model, written.with_suffix(""), bits)
        outputs = None if arguments.lite_python is None else predict(arguments.lite_python, written, images, folder)
        print(f"{path}: {written.stat().st_size:,} bytes ({model}: {model.stat().st_size:,})")
        if outputs is None:
            what = "is not here" if arguments.lite_python is None else "cannot load quantised weights (docs/edge.md)"
            print(f"not compared: the wheel's runtime {what}")
        else:
            print(compare(path, bits, classifier.run(images), outputs, labels))


def parse():
    """The command line."""
    parser = Parser("Convert an exported ONNX or MINDIR file for MindSpore Lite, and compare the outputs.")
    parser.add_argument("model", metavar="MODEL", help="file that export.py wrote")
    parser.add_argument("--weight_bits", type=int, choices=tuple(SUFFIXES), default=32, help="(default: 32)")
    parser.add_argument("--ckpt", metavar="FILE", help="compare on the test images of this checkpoint's data set")
    parser.add_argument("--file_name", metavar="OUT.ms", help="file to write (default: beside the input)")
    parser.add_argument("--overwrite", action="store_true", help="replace the file to write, if it exists")
    parser.add_argument("--lite_python", metavar="FILE", help="a Python with mindspore_lite; convert_lite.sh gives it")
    arguments = parser.parse_args()
    if arguments.lite_python is None and not os.environ.get("CONVERTER_LITE"):
        raise InputError("CONVERTER_LITE: names no converter_lite, and there is no --lite_python; see docs/edge.md")
    return arguments


def compared_images(interface, ckpt):
    """Images as the network takes them, and their labels; random ones and None without a checkpoint."""
    if ckpt is None:
        return interface.random_images(count=IMAGES), None
    trained = load_trained(ckpt)
    batching = Batching(interface.batch_size or IMAGES, trained.config.num_workers)
    dataset = Batches(trained.source(), "test", batching).epoch()
    images, labels = next(iterate(dataset.create_tuple_iterator(num_epochs=1, output_numpy=True)))
    return as_input(images, interface), labels


def run_converter(binary, model, written, bits, folder):
    """MindSpore Lite's own converter_lite. Raises InputError."""
    words = [binary, f"--fmk={KINDS[model.suffix]}", f"--modelFile={model}", f"--outputFile={written.with_suffix('')}"]
    if bits == 16:
        words.append("--fp16=on")
    if bits == 8:
        lines = ["[common_quant_param]", "quant_type=WEIGHT_QUANT", "bit_num=8"]
        lines += ["min_quant_weight_size=0", "min_quant_weight_channel=1"]
        (folder / "quant.cfg").write_text("\n".join(lines) + "\n", encoding="utf-8")
        words.append(f"--configFile={folder / 'quant.cfg'}")
    _run(words, written)


def run_lite(python, *words):
    """`scripts/lite.py` in the Python of MindSpore Lite. Raises InputError."""
    _run([python, str(LITE), *map(str, words)])


def predict(python, path, images, folder):
    """The outputs of a .ms file by MindSpore Lite's runtime, or None if it cannot load quantised weights."""
    given, found = Path(folder) / "images.npy", Path(folder) / "outputs.npy"
    np.save(given, images)
    try:
        run_lite(python, "predict", path, given, found)
    except InputError as error:
        if _CANNOT_LOAD in str(error):
            return None
        raise
    return np.load(found)


def compare(path, bits, expected, outputs, labels):
    """A line on how far outputs are from onnxruntime's. Raises RuntimeError if that is too far."""
    deviation = largest_deviation(expected, outputs)
    if not deviation <= TOLERANCES.get(bits, np.inf):
        raise RuntimeError(f"{path}: the written file's outputs differ by {deviation:g} (allowed: {TOLERANCES[bits]})")
    same = np.count_nonzero(expected.argmax(1) == outputs.argmax(1))
    line = f"against the exported file: largest deviation {deviation:.1e}, the same class for {same} of {len(outputs)}"
    if labels is not None:
        line += f" test images, {np.count_nonzero(outputs.argmax(1) == labels)} of them right"
    return line


def _run(words, written=None):
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode or (written is not None and not written.is_file()):
        said = done.stdout + done.stderr
        reason = _CANNOT_LOAD if _CANNOT_LOAD in said else _last_words(said)
        raise InputError(f"model: MindSpore Lite refuses it: {reason}; an ONNX file is what every version takes")


def _last_words(text):
    """What a failed program gives as its reason: its exception, else its last line."""
    found = re.findall(r"^\w*Error: (.+)$", text, re.MULTILINE) or text.strip().splitlines()
    return found[-1] if found else "it says nothing"


if __name__ == "__main__":
    run_program(main)

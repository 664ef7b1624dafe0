"""Bad input to every program: one line that starts with `error:`, exit code 2, and nothing lost or overwritten.

Each row runs a program from its file, in this process; those that have to, in one of their own. docs/bad_input.md is
the table of what they answered; after a change write it anew with `python tests/test_bad_input.py`.
"""

import contextlib
import hashlib
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import src  # noqa: F401,I001  sets the environment before mindspore loads

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn
from onnx import TensorProto, helper
from PIL import Image

from benchmark.random_data import write_cifar10, write_cifar100, write_imagenet
from src.weights.checkpoint import read_checkpoint, write_checkpoint
from src.config.keys import resolve
from src.export import packed
from src.platform.device import select_device
from src.platform.lock import FolderLock
from src.report.page import PAGE
from src.run.trainer import Trainer
from tests.hostile_files import INTERFACE, checkpoint_of
from tests.in_process import Answer, run
from tests.test_readers import png, tensor_pickle, torch_zip

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "docs" / "bad_input.md"
HEAD = """# Bad input, and what the programs say

Every row is run by `tests/test_bad_input.py`, which compares this table with the answers (and writes it when it is run
by itself). All end with one line on stderr, nothing on stdout, exit code 2, no traceback, and every file as it was.
`run/` is the folder of a finished run. What is done against files that were made to do harm: see
[hostile_files.md](hostile_files.md).
"""
TABLE_HEAD = "| input | command | answer | exit code |\n| --- | --- | --- | --- |"


class Row(NamedTuple):
    """what: the mistake; words: program and arguments, run in the scene; says: part of the message.

    process: runs in a process of its own, with the variables of `environment`; root: needs to mount a file system.
    """

    what: str
    words: str
    says: str
    process: bool = False
    environment: dict = {}  # noqa: RUF012  read only
    root: bool = False


CIFAR = "train.py --config_path cifar.yaml --output_path new --data_path"
RESUME = "train.py --config_path run/config.yaml --output_path new --resume_ckpt"
IMAGENET = "train.py --config_path imagenet.yaml --output_path new --data_path"
FOLDER = "train.py --dataset folder --output_path new --image_size 32 --batch_size 2 --update_interval 1 --data_path"
SENSITIVITY = "src.tools.sensitivity --ckpt run/best.ckpt"
# Headings of the document, and the rows below them.
DOCUMENT = [
    "The command line",
    Row("a misspelt option", "train.py --sparcity 0.5", "did you mean --sparsity?", process=True),
    Row("an abbreviated option", "train.py --spars 0.5", "unknown option --spars"),
    Row("a stray word", "train.py stray", "unknown option stray"),
    Row("a forgotten --config_path", "train.py cifar.yaml", "did you mean --config_path cifar.yaml?"),
    Row("an option without its value", "train.py --seed", "expected one argument"),
    Row("a share above 1", "train.py --sparsity 1.5", "command line: sparsity: "),
    Row("a word for a number", "train.py --sparsity lots", "valid number"),
    Row("a fraction for a whole number", "train.py --batch_size 1.5", "batch_size: "),
    Row("no epochs", "train.py --epoch_size 0", "epoch_size: "),
    Row("more epochs than memory has room for", "train.py --epoch_size 1000000000000", "epoch_size: "),
    Row("too many steps", "train.py --epoch_size 1000000 --batch_size 1", "steps are too many"),
    Row("a negative learning rate", "train.py --lr -1", "lr: "),
    Row("a learning rate that is no number", "train.py --lr nan", "lr: "),
    Row("an infinite learning rate", "train.py --lr inf", "lr: "),
    Row("an unknown optimiser", "train.py --optimizer adam", "optimizer: "),
    Row("momentum for another optimiser", "train.py --optimizer lion --momentum 0.8", "only for optimizer momentum"),
    Row("a negative norm", "train.py --grad_clip -1", "grad_clip: "),
    Row("an unknown model", "train.py --model resnet21", "model: "),
    Row(
        "a network that mindcv does not know",
        "train.py --model mindcv/mobilenet",
        "mindcv has no network mobilenet",
    ),
    Row("an argument for a network of ours", "train.py --model_args wings=2", "only for networks of mindcv"),
    Row("an argument without a value", "train.py --model_args wings", "'wings' is not NAME=VALUE"),
    Row("an unknown method", "train.py --method prune", "method: "),
    Row("an empty output folder's name", "train.py --output_path=", "output_path: "),
    "Configuration files",
    Row("no such file", "train.py --config_path none.yaml", "cannot read none.yaml: No such file"),
    Row("a folder for a file", "train.py --config_path run", "cannot read run: Is a directory"),
    Row("noise for a configuration", "train.py --config_path noise.ckpt", "is not valid YAML"),
    Row("a misspelt key", "train.py --config_path misspelt.yaml", "unknown key 'sparcity'; did you mean sparsity?"),
    Row("a key that is no word", "train.py --config_path number.yaml", "unknown key 7"),
    Row("a list for a number", "train.py --config_path list.yaml", "lr: "),
    Row("no keys", "train.py --config_path lines.yaml", "holds no `key: value` lines"),
    Row("not YAML", "train.py --config_path colons.yaml", "is not valid YAML"),
    Row("a zero byte in a path", "train.py --config_path zero.yaml", "data_path: "),
    Row("a YAML tag that calls a function", "train.py --config_path evil.yaml", "is not valid YAML"),
    Row("a missing base", "train.py --config_path orphan.yaml", "cannot read nowhere.yaml"),
    Row("a base that leads back", "train.py --config_path loop.yaml", "leads back to itself"),
    Row("a pipe", "train.py --config_path pipe", "a device or a pipe"),
    Row("a base that is a device", "train.py --config_path device.yaml", "cannot read /dev/zero: a device or a pipe"),
    Row("a link that leads to itself", "train.py --config_path circle", "symbolic links"),
    Row("aliases that double and double", "train.py --config_path laugh.yaml", "more than 20 aliases"),
    Row("a date for a number", "train.py --config_path date.yaml", "lr: "),
    Row("a number of thousands of digits", "train.py --config_path digits.yaml", "accumulation_steps: "),
    "Settings that contradict each other",
    Row("no mask update fits", "train.py --update_interval 100000", "no mask update fits"),
    Row("pruning beyond the end", "train.py --pruning_epochs 50", "pruning_epochs 50 is above epoch_size 40"),
    Row("the window ends after the updates", "train.py --update_end 0.5", "lies before the end of prune_window"),
    Row("a batch larger than the data", "train.py --batch_size 5000", "batch_size 5000 is larger than"),
    Row("parts that do not divide a batch", "train.py --accumulation_steps 3", "does not divide into"),
    Row("a batch that workers cannot share", "scripts/job.py 3 --batch_size 64", "cannot be shared evenly"),
    Row("parts that workers cannot share", "scripts/job.py 2 --accumulation_steps 64", "in 64 parts each"),
    Row("a distribution that the method cannot use", "train.py --method rigl --distribution global", "does not fit"),
    Row("a setting that the method fixes", "train.py --method gap --rank_weight 1", "method gap fixes it"),
    Row("a first layer beyond the budget", "train.py --distribution uniform --sparsity 0.9999", "first layer"),
    Row("a least density in words", "train.py --min_layer_density all", "should be a valid number"),
    Row("floors beyond the budget", "train.py --min_layer_density 0.03", "min_layer_density 0.03 keeps at least"),
    "N:M patterns",
    Row("a pattern the wrong way round", "train.py --pattern 4:2", "N:M with N below M"),
    Row("a pattern that YAML takes for a time", "train.py --config_path unquoted.yaml", "N:M in quotes"),
    Row("a pattern and another sparsity", "train.py --pattern 2:4 --sparsity 0.9", "sparsity: pattern 2:4 gives each"),
    Row("a pattern and a distribution", "train.py --pattern 2:4 --distribution erk", "distribution: pattern 2:4 gives"),
    Row("a pattern that no layer takes", "train.py --pattern 1:7", "no layer but the first has input channels"),
    Row("a pattern where nothing is pruned", "train.py --method dense --pattern 2:4", "method dense prunes nothing"),
    Row("the other layers without a pattern", "train.py --pattern_rest unstructured", "only beside a pattern"),
    "Devices",
    Row("no GPU here", "train.py --device_target GPU", "device_target: no GPU device found"),
    Row("no Ascend here", "eval.py --ckpt run/best.ckpt --device_target Ascend", "no Ascend device found"),
    "Output",
    Row("a folder that holds a run", "train.py --output_path run", "already holds a run"),
    Row("a folder inside a file", "train.py --output_path run/config.yaml/x", "output_path: cannot write"),
    Row("a folder that cannot be made", "train.py --output_path /proc/none", "output_path: cannot write"),
    Row("a full disk", "train.py --output_path full/new", "No space left on device", root=True),
    Row("a folder that another run writes to", "train.py --output_path busy", "another run writes to busy"),
    Row("the same, to replace it", "train.py --output_path busy --overwrite", "another run writes to busy"),
    Row("the same, to continue it", "train.py --output_path busy --resume_ckpt auto", "another run writes to busy"),
    Row("the same for a job", "scripts/job.py 2 --output_path busy", "another run writes to busy"),
    "Where a run starts from",
    Row("nothing to resume", "train.py --output_path new --resume_ckpt auto", "resume.ckpt"),
    Row("a deployable checkpoint to resume", "train.py --output_path new --resume_ckpt run/best.ckpt", "resume.ckpt"),
    Row("a truncated state to resume", "train.py --output_path new --resume_ckpt cut.ckpt", "cut.ckpt"),
    Row("no pretrained weights there", "train.py --pretrained none.pth --output_path new", "No such file"),
    Row("the same in a plan", "train.py --pretrained none.pth --dry_run", "No such file"),
    Row("pretrained weights of another model", "train.py --pretrained run/best.ckpt --model resnet32", "missing"),
    Row("a text for weights", "train.py --pretrained lines.yaml", "not a MindSpore checkpoint"),
    Row("a pickle that calls a function", "train.py --pretrained evil.pth", "evil.pth"),
    Row(
        "no pretrained weights for a job",
        "scripts/job.py 2 --pretrained none.pth --output_path new",
        "No such file",
    ),
    Row("nothing to resume for a job", "scripts/job.py 2 --resume_ckpt auto --output_path new", "resume.ckpt"),
    Row(
        "another recipe to resume for a job",
        "scripts/job.py 2 --resume_ckpt run/resume.ckpt --output_path new --batch_size 128 --update_interval 2 --lr 2",
        "another recipe",
    ),
    Row(
        "an extension that changes more", f"{RESUME} run/resume.ckpt --epoch_size 2 --momentum 0.5", "momentum was 0.9"
    ),
    Row("fewer epochs than there were", f"{RESUME} long.ckpt", "epoch_size was 3, is 1"),
    Row("a longer run that has not ended", f"{RESUME} long.ckpt --epoch_size 4", "let it come to its end first"),
    Row("a step of another epoch", f"{RESUME} step.ckpt", "does not lie in epoch"),
    Row("masks that are all zero", f"{RESUME} unmasked.ckpt", "non-zero weights outside its mask"),
    Row("masks that are all one", f"{RESUME} dense.ckpt", "its masks keep"),
    Row("masks of another length", f"{RESUME} short.ckpt", "is not a mask of"),
    Row("optimiser state of another kind", f"{RESUME} moments.ckpt", "moments.conv1.weight is float64"),
    Row("a damaged field of a state", f"{RESUME} field.ckpt", "last.loss: "),
    Row("another data set to resume with", f"{RESUME} data.ckpt", "not the data of the run"),
    Row("optimiser state that is not finite", f"{RESUME} infinite.ckpt", "has values that are not finite"),
    "Data",
    Row("no data folder given", "train.py --config_path cifar.yaml", "give the folder that holds"),
    Row("no such data folder", f"{CIFAR} nowhere", "cannot read nowhere"),
    Row("an empty data folder", f"{CIFAR} empty", "cannot read empty"),
    Row("a file for a data folder", f"{CIFAR} lines.yaml", "cannot read lines.yaml"),
    Row("a folder for a data file", f"{CIFAR} cifar_folder", "data_batch_2.bin"),
    Row(
        "no such data folder for a job",
        "scripts/job.py 2 --config_path cifar.yaml --output_path new --data_path nowhere",
        "cannot read nowhere",
    ),
    Row("a truncated CIFAR file", f"{CIFAR} cifar_short", "it is truncated or not the binary version"),
    Row("an empty CIFAR file", f"{CIFAR} cifar_empty", "has 0 bytes"),
    Row("labels of another data set", f"{CIFAR} cifar_labels", "has labels above 9"),
    Row("CIFAR-100 for CIFAR-10", f"{CIFAR} cifar100", "cannot read"),
    Row("too few class folders", f"{IMAGENET} few", "has 2 class folders"),
    Row("class folders without images", f"{IMAGENET} hollow", "no images in the class folders"),
    Row("a corrupt JPEG", f"{IMAGENET} corrupt", "cannot read corrupt/train/n00000001/1.JPEG"),
    Row("a folder without train and val", f"{FOLDER} plain", "say which share of the images is to test the network"),
    Row("a single class folder", f"{FOLDER} single --val_fraction 0.5", "has 1 class folders"),
    Row("a picture that is none", f"{FOLDER} broken", "files cannot be read: train/cat/1.JPEG"),
    Row("a class without a picture", f"{FOLDER} hole --val_fraction 0.5", "no image that can be read in hole/dog"),
    Row("test pictures of another class", f"{FOLDER} strange", "strange/val/owl is none of the network's 2 classes"),
    Row("test pictures without labels", f"{FOLDER} flat", "put a list of their labels beside it"),
    Row("numbers without their meaning", f"{FOLDER} numbers", "meta.mat, which says what they stand for, is missing"),
    Row("a test picture without a label", f"{FOLDER} unlisted", "has no label for unlisted/val/2.JPEG"),
    Row("RandAugment of grey pictures", "train.py --rand_augment 9 --output_path new", "only for colour images"),
    Row("the size of pictures elsewhere", "train.py --image_size 64", "image_size: only for dataset folder"),
    Row("too few images to hold any out", "train.py --val_fraction 0.001", "leaves none to choose by"),
    "Checkpoints",
    Row("no checkpoint given", "eval.py", "the following arguments are required: --ckpt"),
    Row("no such checkpoint", "eval.py --ckpt none.ckpt", "cannot read the checkpoint: No such file", process=True),
    Row("a folder for a checkpoint", "eval.py --ckpt run", "cannot read the checkpoint: Is a directory"),
    Row("an empty checkpoint", "eval.py --ckpt empty.ckpt", "empty.ckpt"),
    Row("a truncated checkpoint", "eval.py --ckpt cut.ckpt", "cut.ckpt"),
    Row("one flipped bit", "eval.py --ckpt flipped.ckpt", "its checksum does not match"),
    Row("noise for a checkpoint", "eval.py --ckpt noise.ckpt", "not a MindSpore checkpoint"),
    Row("a text for a checkpoint", "eval.py --ckpt run/config.yaml", "not a MindSpore checkpoint"),
    Row("a checkpoint from elsewhere", "eval.py --ckpt elsewhere.ckpt", "no description inside"),
    Row("a run's state for a network", "eval.py --ckpt run/resume.ckpt", "not a deployable checkpoint"),
    Row("the weights of another model", "eval.py --ckpt other.ckpt", "does not fit the network"),
    Row("a model of the future", "eval.py --ckpt future.ckpt", "model.name"),
    Row("a setting of the future", "eval.py --ckpt setting.ckpt", "unknown key 'wings'"),
    Row("no images per step", "eval.py --ckpt run/best.ckpt --batch_size 0", "batch_size"),
    Row("a folder that holds a report", "eval.py --ckpt run/best.ckpt --report held", "already holds a report"),
    Row("a network of one's own", "eval.py --ckpt own.ckpt", "say what builds it: --network FILE.py:FUNCTION"),
    Row("what should build it", "eval.py --ckpt own.ckpt --network none.py:build", "there is no file none.py"),
    Row("a name for what builds it", "eval.py --ckpt own.ckpt --network build", "is not FILE.py:NAME or MODULE:NAME"),
    Row("a known network", "eval.py --ckpt run/best.ckpt --network nets.py:build", "known here; leave it out"),
    Row("a folder to measure into", f"{SENSITIVITY} --output_path no", "folder no does not exist"),
    Row("results that are there", f"{SENSITIVITY} --output_path held", "best.sensitivity.json exists"),
    Row("a device for a checkpoint", "eval.py --ckpt /dev/zero", "a device or a pipe"),
    Row("the root folder", "eval.py --ckpt /", "Is a directory"),
    Row("weights that are no numbers", "eval.py --ckpt nan.ckpt", "conv1.weight has values that are not finite"),
    Row("negative variances", "eval.py --ckpt variance.ckpt", "has negative variances"),
    Row("nonsense in its configuration", "eval.py --ckpt energy.ckpt", "configuration: tail_energy: "),
    Row("a shape that is none", "eval.py --ckpt shape.ckpt", "image_shape.1: "),
    Row("a million classes", "eval.py --ckpt classes.ckpt", "too small for num_classes"),
    Row("a tensor of terabytes", "eval.py --ckpt terabytes.ckpt", "does not match its declared type and shape"),
    Row("a tensor twice", "eval.py --ckpt twice.ckpt", "holds tensor a twice"),
    Row(
        "more images than memory has room for",
        "eval.py --ckpt run/best.ckpt --batch_size 1000000000",
        "is more than",
    ),
    "Export",
    Row("zeros that came back", "export.py --ckpt regrown.ckpt", "non-zero weights", process=True),
    Row("the same, packed", "export.py --ckpt regrown.ckpt --file_format PACKED", "non-zero weights"),
    Row("a pattern that was broken", "export.py --ckpt broken.ckpt", "breaks the pattern 1:8 in 1 of its 288 groups"),
    Row("the same in evaluation", "eval.py --ckpt broken.ckpt", "breaks the pattern 1:8 in 1 of its 288 groups"),
    Row("a folder that is not there", "export.py --ckpt run/best.ckpt --file_name no/x", "folder no does not exist"),
    Row("an unknown format", "export.py --ckpt run/best.ckpt --file_format TFLITE", "invalid choice: 'TFLITE'"),
    Row("AIR without Ascend", "export.py --ckpt run/best.ckpt --file_format AIR", "needs MindSpore's Ascend backend"),
    Row("folding without a graph", "export.py --ckpt run/best.ckpt --file_format PACKED --fold_bn", "leave it out"),
    Row("half precision of a graph", "export.py --ckpt run/best.ckpt --values fp16", "only for --file_format PACKED"),
    Row(
        "8 bits of a MINDIR", "export.py --ckpt run/best.ckpt --quantize int8", "quantize: only for --file_format ONNX"
    ),
    Row(
        "calibration without 8 bits",
        "export.py --ckpt run/best.ckpt --file_format ONNX --calibration_images 4",
        "only with --quantize int8",
    ),
    Row(
        "more calibration images than there are",
        "export.py --ckpt run/best.ckpt --file_format ONNX --quantize int8 --calibration_images 9999",
        "calibration_images: 9999",
    ),
    Row("two kinds of batch", "export.py --ckpt run/best.ckpt --batch_size 2 --dynamic_batch", "contradicts"),
    Row(
        "a batch of any size",
        "export.py --ckpt run/best.ckpt --file_format SPARSE --batch_size 2",
        "takes any batch",
    ),
    Row("nothing to export", "export.py", "one of the arguments --ckpt --unpack is required"),
    Row("a network to unpack with", "export.py --unpack run/best.ckpt --network n.py:f", "unpacking builds no network"),
    Row("a checkpoint to unpack", "export.py --unpack run/best.ckpt --file_name x.ckpt", "not a packed file"),
    Row("a truncated packed file", "export.py --unpack cut.packed --file_name y.ckpt", "damaged or truncated"),
    Row("the input for the output", "export.py --unpack run/best.ckpt", "is the input file"),
    Row("a file that is there", "export.py --unpack x.packed --file_name run/best.ckpt", "best.ckpt exists"),
    Row("the same for a graph", "export.py --ckpt run/best.ckpt --file_name text", "text.mindir exists"),
    Row("weights that are no numbers", "export.py --ckpt nan.ckpt", "conv1.weight has values that are not finite"),
    Row("the same, packed", "export.py --ckpt nan.ckpt --file_format PACKED", "has values that are not finite"),
    Row(
        "more images than memory has room for",
        "export.py --ckpt run/best.ckpt --batch_size 9999999",
        "is more than",
    ),
    Row("an empty name to unpack", "export.py --unpack=", "is not the name of a file"),
    Row(
        "a packed file that declares terabytes",
        "export.py --unpack terabytes.packed --file_name y.ckpt",
        "between 0 and",
    ),
    "Inference",
    Row("no such exported model", "infer.py --model none.mindir x.png", "cannot read none.mindir"),
    Row(
        "a checkpoint for an exported model",
        "infer.py --model run/best.ckpt x.png",
        "in none of .mindir, .onnx and",
    ),
    Row("a text for a MINDIR", "infer.py --model text.mindir x.png", "is not a MINDIR file"),
    Row("a text for an ONNX", "infer.py --model text.onnx x.png", "not an ONNX file"),
    Row("a text for a SPARSE file", "infer.py --model text.sparse x.png", "not a .sparse file"),
    Row("no class to name", "infer.py --model text.onnx x.png --top_k 0", "top_k"),
    Row("an ONNX file that loops", "infer.py --model loop.onnx x.png", "a graph inside a graph (Loop)"),
    Row("an ONNX file with weights elsewhere", "infer.py --model outside.onnx x.png", "values in other files"),
    Row("an ONNX file that makes terabytes", "infer.py --model terabytes.onnx x.png", "terabytes.onnx"),
    Row("classes of one name", "infer.py --model classes.onnx x.png", "does not say what it takes"),
    Row("a deviation of zero", "infer.py --model deviation.onnx x.png", "does not say what it takes"),
    Row("a crop of nothing", "infer.py --model crop.onnx x.png", "does not say what it takes"),
    Row("outputs that are no numbers", "infer.py --model nan.onnx x.png", "are not a finite number for each class"),
    Row("a picture as thin as a hair", "infer.py --model good.onnx hair.png", "of which no network sees"),
    Row("a picture of terabytes", "infer.py --model good.onnx terabytes.png", "terabytes.png"),
    Row("a pipe for a picture", "infer.py --model good.onnx pipe", "a device or a pipe"),
    "Conversion",
    Row("nothing to convert", "src.tools.convert_torch none.pth x.ckpt", "No such file"),
    Row("a text for the sparse runtime", "src.tools.sparse_model text.onnx x.sparse", "not an ONNX file"),
    Row("a C file without a name", "src.tools.sparse_model text.onnx x.c", "does not end in .sparse"),
    Row("an unknown ending", "src.tools.convert_torch evil.pth x.h5", "ends in none of"),
    Row("a pickle that calls a function", "src.tools.convert_torch evil.pth x.ckpt", "evil.pth"),
    Row("a run's state to convert", "src.tools.convert_torch run/resume.ckpt x.safetensors", "not a deployable"),
    Row("names that are MindSpore's", "src.tools.convert_torch run/best.ckpt x.ckpt", "MindSpore's names already"),
    Row("names that are PyTorch's", "src.tools.convert_torch evil.pth x.safetensors", "PyTorch's names already"),
    Row("an output that is there", "src.tools.convert_torch run/best.ckpt evil.pth", "evil.pth exists"),
    Row(
        "weights that are no numbers",
        "src.tools.convert_torch nan.ckpt x.safetensors",
        "values that are not finite",
    ),
    Row("a pickle whose names are numbers", "src.tools.convert_torch numbers.pth x.ckpt", "no text"),
    Row(
        "a tensor of a hundred dimensions",
        "src.tools.convert_torch dimensions.pth x.ckpt",
        "more than 8 dimensions",
    ),
    Row("an archive in an archive", "src.tools.convert_torch compressed.pth x.ckpt", "is compressed"),
    Row(
        "a safetensors file of terabytes",
        "src.tools.convert_torch terabytes.safetensors x.ckpt",
        "not a safetensors file",
    ),
    "Scripts",
    Row("no checkpoint to evaluate", "scripts/run_eval.sh", "CKPT", process=True),
    Row("an option for a checkpoint", "scripts/run_eval.sh --ckpt run/best.ckpt", "CKPT", process=True),
    Row("no checkpoint to export", "scripts/run_export.sh", "CKPT", process=True),
    Row("an unknown word for the set-up", "scripts/setup.sh tests", "tests: not known", process=True),
    Row("an unknown option for the tests", "ready/scripts/run_tests.sh --fast", "arguments: --fast", process=True),
    Row("no such test file", "ready/scripts/run_tests.sh none.py", "not found: none.py", process=True),
    Row("no supported Python", "bare/scripts/run_standalone_train.sh", "no Python 3.9", True, {"PATH": "bin"}),
    "The environment",
    Row("a role that no job has", "train.py --output_path new", "MS_ROLE: 'boss'", True, {"MS_ROLE": "boss"}),
    Row("a worker without a job", "train.py --output_path new", "MS_WORKER_NUM: ''", True, {"MS_ROLE": "MS_WORKER"}),
    Row("an unknown log level", "eval.py --ckpt run/best.ckpt", "GLOG_v: 'loud'", True, {"GLOG_v": "loud"}),
    "Versions",
    Row("Python 3.8", "train.py", "Python 3.8.18 is not supported", True, {"PYTHONPATH": "python38"}),
    Row("Python 3.13", "eval.py", "Python 3.13.0 is not supported", True, {"PYTHONPATH": "python313"}),
    Row("numpy 2", "export.py", "numpy 2.1.0 breaks MindSpore", True, {"PYTHONPATH": "numpy2"}),
    Row("an old MindSpore", "infer.py", "mindspore 2.2.14 is not supported", True, {"PYTHONPATH": "old"}),
    Row("a MindSpore of the future", "train.py", "mindspore 3.0.0 is not supported", True, {"PYTHONPATH": "new_ms"}),
]
ROWS = [row for row in DOCUMENT if isinstance(row, Row)]


class Call:
    """Unpickles to a call, as an attacker's file would: it would leave a file `called` behind."""

    def __reduce__(self):
        return os.mkdir, ("called",)


def build_scene():
    """Write everything that the rows refer to into the working directory."""
    Trainer(resolve({"epoch_size": 1, "batch_size": 128, "update_interval": 2, "output_path": "run"})).run()
    texts = {
        "misspelt.yaml": "sparcity: 0.9\n",
        "number.yaml": "7: 7\n",
        "unquoted.yaml": "pattern: 2:4\n",
        "list.yaml": "lr: [1]\n",
        "lines.yaml": "- a\n- b\n",
        "colons.yaml": "a: b: c\n",
        "zero.yaml": 'data_path: "a\\0b"\n',
        "evil.yaml": "lr: !!python/object/apply:os.mkdir [called]\n",
        "orphan.yaml": "base: nowhere.yaml\n",
        "loop.yaml": "base: loop.yaml\n",
        "cifar.yaml": "dataset: cifar10\nbatch_size: 4\nupdate_interval: 1\noutput_path: new\n",
        "imagenet.yaml": "model: resnet20\ndataset: imagenet\nbatch_size: 2\nupdate_interval: 1\n",
        "device.yaml": "base: /dev/zero\n",
        "laugh.yaml": "".join(f"k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * 9 if i else ['1'])}]\n" for i in range(9)),
        "date.yaml": "lr: 2024-01-01\n",
        "digits.yaml": f"accumulation_steps: 0x{'f' * 5000}\n",
        "text.mindir": "a text\n",
        "text.onnx": "a text\n",
        "text.sparse": "a text\n",
    }
    for name, text in texts.items():
        Path(name).write_text(text)
    os.mkfifo("pipe")
    Path("circle").symlink_to("circle")
    _write_checkpoints()
    _write_states()
    _write_models()
    _write_data()
    _write_versions()


def _write_checkpoints():
    content = Path("run/best.ckpt").read_bytes()
    Path("cut.ckpt").write_bytes(content[: len(content) // 2])
    middle = len(content) // 2
    Path("flipped.ckpt").write_bytes(content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :])
    Path("noise.ckpt").write_bytes(np.random.default_rng(0).bytes(1000))
    Path("empty.ckpt").touch()
    ms.save_checkpoint(nn.Dense(2, 2), "elsewhere.ckpt")
    Path("evil.pth").write_bytes(pickle.dumps({"state_dict": Call()}, protocol=2))
    Path("cut.packed").write_bytes(b"RPGPACK\x01" + bytes(100))
    tensors, description = read_checkpoint("run/best.ckpt")
    model = description["model"]
    write_checkpoint("other.ckpt", tensors, {**description, "model": {**model, "name": "resnet32"}})
    write_checkpoint("future.ckpt", tensors, {**description, "model": {**model, "name": "resnet2032"}})
    write_checkpoint("setting.ckpt", tensors, {**description, "config": {**description["config"], "wings": 2}})
    changed = {
        "energy": {"config": {**description["config"], "tail_energy": 2}},
        "shape": {"image_shape": [1, 10**6, 8]},
        "classes": {"model": {**model, "num_classes": 10**6}},
    }
    for name, change in changed.items():
        write_checkpoint(f"{name}.ckpt", tensors, {**description, **change})
    for name, key, value in (("nan", "conv1.weight", np.nan), ("variance", "bn1.moving_variance", -1)):
        array = tensors[key].copy()
        array.flat[0] = value
        write_checkpoint(f"{name}.ckpt", {**tensors, key: array}, description)
    Path("terabytes.ckpt").write_bytes(checkpoint_of([("a", [1 << 40], "Float32", bytes(8))]))
    Path("twice.ckpt").write_bytes(checkpoint_of([("a", [2], "Float32", bytes(8))] * 2))
    header = {"values": "fp32", "nonzeros": 0, "gaps": 0, "tensors": [["w", "float32", [1 << 40]]], "description": {}}
    packed_file = packed.MAGIC + packed._encode_section(json.dumps(header).encode())
    Path("terabytes.packed").write_bytes(packed_file + hashlib.sha256(packed_file).digest())
    own = {"model": {"name": "own", "num_classes": 10, "in_channels": 1}, "config": {"dataset": "folder"}}
    write_checkpoint("own.ckpt", tensors, {**description, **own})
    weight = tensors["layer1.0.conv1.weight"]
    weight[:] = 0
    weight[0, :2, 0, 0] = 1e-3
    told = {"config": {**description["config"], "pattern": "1:8"}}
    told["nonzeros"] = {**description["nonzeros"], "layer1.0.conv1.weight": 2}
    write_checkpoint("broken.ckpt", tensors, {**description, **told})
    weight[:] = 1e-3
    counts = {**description["nonzeros"], "layer1.0.conv1.weight": 100}
    write_checkpoint("regrown.ckpt", tensors, {**description, "nonzeros": counts})


def _write_states():
    """States of the run with one thing wrong each."""
    tensors, progress = read_checkpoint("run/resume.ckpt")
    mask, moment = "mask.conv1.weight", "optimizer.moments.conv1.weight"
    for name, arrays, changed in (
        ("step", {}, {"step": 5, "epoch": 1}),
        ("unmasked", {mask: np.zeros_like(tensors[mask])}, {}),
        ("dense", {mask: np.full_like(tensors[mask], 255)}, {}),
        ("short", {mask: tensors[mask][1:]}, {}),
        ("moments", {moment: tensors[moment].astype(np.float64)}, {}),
        ("long", {}, {"config": {**progress["config"], "epoch_size": 3}}),
        ("infinite", {moment: np.full_like(tensors[moment], np.inf)}, {}),
        ("field", {}, {"last": {**progress["last"], "loss": "low"}}),
        ("data", {}, {"data": {**progress["data"], "test images": "100 in 10 classes"}}),
    ):
        write_checkpoint(f"{name}.ckpt", {**tensors, **arrays}, {**progress, **changed})


def _write_models():
    """ONNX files with something wrong each, PyTorch's files and pictures that declare too much."""
    flat = helper.make_node("Flatten", ["images"], ["flat"])
    dense = helper.make_node("MatMul", ["flat", "w"], ["y"])
    inner = helper.make_graph([helper.make_node("Relu", ["flat"], ["z"])], "inner", [], [])
    loop = helper.make_node("Loop", ["n", "c"], ["y"], body=inner)
    huge = [helper.make_node("ConstantOfShape", ["s"], ["c"]), helper.make_node("ReduceMean", ["c"], ["y"])]
    for name, nodes, value, change in (
        ("good", [flat, dense], 1.0, {}),
        ("loop", [flat, loop], 1.0, {}),
        ("outside", [flat, dense], None, {}),
        ("terabytes", [flat, *huge], 1.0, {}),
        ("classes", [flat, dense], 1.0, {"classes": ("a", "a")}),
        ("deviation", [flat, dense], 1.0, {"std": (0.0,)}),
        ("crop", [flat, dense], 1.0, {"crop": 0.0}),
        ("nan", [flat, dense], np.nan, {}),
    ):
        weight = helper.make_tensor("w", TensorProto.FLOAT, [16, 2], np.full(32, 1.0 if value is None else value))
        if value is None:
            weight.ClearField("float_data")
            weight.data_location = TensorProto.EXTERNAL
            weight.external_data.add(key="location", value="run/best.ckpt")
        shape = helper.make_tensor("s", TensorProto.INT64, [1], [10**12])
        given = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 1, 4, 4])
        result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        graph = helper.make_graph(nodes, "g", [given], [result], [weight, shape])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
        model.ir_version = 8
        helper.set_model_props(model, INTERFACE._replace(**change).to_metadata())
        Path(f"{name}.onnx").write_bytes(model.SerializeToString())
    torch_zip("numbers.pth", tensor_pickle().replace(b"V'a'\n", b"K\x01"), {"0": bytes(8)})
    many = "(" + "K\x01" * 100 + "t"
    torch_zip("dimensions.pth", tensor_pickle(size=many, stride=many), {"0": bytes(8)})
    torch_zip("compressed.pth", tensor_pickle(), {"0": bytes(8)}, compression=zipfile.ZIP_DEFLATED)
    header = b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,8]}}'
    Path("terabytes.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    Path("hair.png").write_bytes(png(100_000, 1))
    Path("terabytes.png").write_bytes(png(1_000_000, 1_000_000))


def _write_data():
    Path("busy").mkdir()
    Path("empty").mkdir()
    for name in ("short", "empty", "labels", "folder"):
        file = write_cifar10(f"cifar_{name}", 20, 4) / "data_batch_2.bin"
        content = file.read_bytes()
        file.unlink()
        if name == "folder":
            file.mkdir()
        else:
            file.write_bytes({"short": content[:-5], "empty": b"", "labels": b"\xff" * len(content)}[name])
    write_cifar100("cifar100", 4, 4)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            Path("few", split, name).mkdir(parents=True)
    write_imagenet("hollow", 0, 0)
    for folder, pictures in {
        "plain": ["cat/1", "dog/1"],
        "single": ["cat/1", "cat/2"],
        "broken": ["train/cat/2", "train/dog/1", "val/dog/1"],
        "hole": ["cat/1", "cat/2"],
        "strange": ["train/cat/1", "train/dog/1", "val/owl/1"],
        "flat": ["train/cat/1", "train/dog/1", "val/1", "val/2"],
        "numbers": ["train/cat/1", "train/dog/1", "val/1", "val/2"],
        "unlisted": ["train/cat/1", "train/dog/1", "val/1", "val/2"],
    }.items():
        for name in pictures:
            picture = Path(folder, f"{name}.JPEG")
            picture.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 40)).save(picture)
    Path("broken/train/cat/1.JPEG").write_text("no picture")
    Path("numbers/ILSVRC2012_validation_ground_truth.txt").write_text("2\n1\n")
    Path("unlisted/val_labels.txt").write_text("1.JPEG cat\n")
    Path("hole/dog").mkdir()
    write_imagenet("corrupt", 2, 1, lambda index: np.zeros((40, 50, 3), np.uint8))
    image = Path("corrupt/train/n00000001/1.JPEG")
    image.write_bytes(b"\xff" * 300)
    Image.new("L", (8, 8)).save("x.png")
    Path("held").mkdir()
    Path("held", PAGE).touch()
    Path("held", "best.sensitivity.json").touch()


def _write_versions():
    """Folders that make a Python, numpy or MindSpore say another version; tools without any Python, and all set up."""
    for folder, version in (("python38", (3, 8, 18)), ("python313", (3, 13, 0))):
        Path(folder).mkdir()
        Path(folder, "sitecustomize.py").write_text(f"import sys\nsys.version_info = {(*version, 'final', 0)}\n")
    for folder, package, version in (
        ("numpy2", "numpy", "2.1.0"),
        ("old", "mindspore", "2.2.14"),
        ("new_ms", "mindspore", "3.0.0"),
    ):
        metadata = Path(folder, f"{package}-{version}.dist-info", "METADATA")
        metadata.parent.mkdir(parents=True)
        metadata.write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    for folder in ("bare", "ready"):
        shutil.copytree(ROOT / "scripts", f"{folder}/scripts")
        shutil.copy(ROOT / "requirements.txt", folder)
    Path("ready/.venv/bin").mkdir(parents=True)
    python = Path("ready/.venv/bin/python")
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -B "$@"\n')
    python.chmod(0o755)
    for folder in ("ready", "ready/.venv"):
        for file in (*ROOT.glob("requirements*.txt"), ROOT / "constraints.txt"):
            shutil.copy(file, folder)
    Path("bin").mkdir()
    for tool in ("bash", "dirname", "readlink", "cmp"):
        Path("bin", tool).symlink_to(shutil.which(tool))


class Scene:
    """A folder with everything that rows refer to, and the programs' answers there; each row is run once."""

    def __init__(self, folder, pool, full_disk):
        self.folder = folder
        self.full_disk = full_disk
        self.before = self.files()
        self.answers = {}
        self.processes = {row[:2]: pool.submit(self._in_a_process, row) for row in ROWS if row.process}

    def answer(self, row):
        """The Answer to a row, or None if it cannot be asked here."""
        if row.root and not self.full_disk:
            return None
        if row[:2] not in self.answers:
            answer = self.processes[row[:2]].result() if row.process else run(*row.words.split(" "))
            self.answers[row[:2]] = answer
            shutil.rmtree(self.folder / "new", ignore_errors=True)
        return self.answers[row[:2]]

    def files(self):
        """All files and whether they have changed, without what a run may begin to write."""
        paths = [
            path for path in self.folder.rglob("*") if path.relative_to(self.folder).parts[0] not in ("new", "full")
        ]
        return {path: None if path.is_dir() else (path.lstat().st_mtime_ns, path.lstat().st_size) for path in paths}

    def line(self, row):
        """The row of the table, or None."""
        answer = self.answer(row)
        if answer is None:
            return None
        said = answer.stderr.strip().replace(f"{self.folder}/", "").replace(f"{ROOT}/", "").replace("|", "\\|")
        variables = "".join(f"{name}={value} " for name, value in row.environment.items())
        return f"| {row.what} | `{variables}{row.words}` | {said} | {answer.code} |"

    def _in_a_process(self, row):
        program, *words = row.words.split(" ")
        file = self.folder / program if (self.folder / program).exists() else ROOT / program
        start = shutil.which("bash") if program.endswith(".sh") else sys.executable
        variables = {  # of paths, which are those of the scene
            name: str(self.folder / value) if name.endswith("PATH") else value
            for name, value in row.environment.items()
        }
        done = subprocess.run(
            [start, file, *words],
            cwd=self.folder,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=300,
        )
        return Answer(done.stdout, done.stderr, done.returncode)


@contextlib.contextmanager
def _full_disk(folder):
    """A file system without room on `folder`; gives whether it could be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", folder]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        yield False
        return
    try:
        with contextlib.suppress(OSError), open(folder / "ballast", "wb", buffering=0) as file:
            while True:
                file.write(bytes(1024))
        yield True
    finally:
        subprocess.run(["umount", folder], check=True)


@contextlib.contextmanager
def opened_scene(folder):
    """A Scene in an empty folder, which is the working directory as long as it is open."""
    folder, home = Path(folder).resolve(), os.getcwd()
    os.chdir(folder)
    try:
        build_scene()
        busy = FolderLock(Path("busy"), "output_path")
        with _full_disk(folder / "full") as full_disk, ThreadPoolExecutor(2) as pool:
            yield Scene(folder, pool, full_disk)
        busy.release()
    finally:
        os.chdir(home)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    with opened_scene(tmp_path_factory.mktemp("scene")) as scene:
        yield scene


@pytest.mark.parametrize("row", ROWS, ids=[row.words for row in ROWS])
def test_one_line_and_code_2(row, scene):
    answer = scene.answer(row)
    if answer is None:
        pytest.skip("needs to mount a file system")
    assert answer.stderr.startswith("error: ")
    assert row.says in answer.stderr
    assert answer.stderr.count("\n") == 1
    assert answer.stdout == ""
    assert answer.code == 2


def test_nothing_is_lost_or_overwritten_and_nothing_was_run(scene):
    for row in ROWS:
        scene.answer(row)
    assert scene.files() == scene.before
    assert not (scene.folder / "called").exists()


def test_the_table_is_what_the_programs_say(scene):
    lines = [scene.line(row) for row in ROWS if scene.answer(row) is not None]
    written = TABLE.read_text()
    if len(lines) == len(ROWS):
        assert written == document(scene), "write it anew: python tests/test_bad_input.py"
    assert [line for line in lines if line not in written.split("\n")] == []


def document(scene):
    """The text of docs/bad_input.md: a table below each heading."""
    lines = [f"\n## {row}\n\n{TABLE_HEAD}" if isinstance(row, str) else scene.line(row) for row in DOCUMENT]
    return "\n".join([HEAD.rstrip("\n"), *lines]) + "\n"


def write_table():
    """Ask all rows, and write docs/bad_input.md."""
    select_device("CPU")
    with tempfile.TemporaryDirectory() as folder, opened_scene(folder) as scene:
        if any(scene.answer(row) is None for row in ROWS):
            sys.exit("some rows need to mount a file system; run as root")
        TABLE.write_text(document(scene))
    print(f"{TABLE}: {len(ROWS)} rows")


if __name__ == "__main__":
    write_table()

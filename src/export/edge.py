"""The last step on an Ascend host: MindSpore Lite's converter_lite, its configuration and its command."""

import json
import shlex

from ..platform.files import replace_file, writing
from ..pruning.layers import pattern_axes
from ..pruning.pattern import Pattern, Patterned
from ..pruning.pruner import prunable_weights

TWO_OF_FOUR = Pattern(2, 4)  # the one that CANN knows
_BATCHES = (1, 2, 4, 8)  # the batch sizes an Ascend model is compiled for where the batch is free


def has_two_of_four(trained):
    """Whether every layer of a trained network that can take 2:4 has at most two non-zeros in every four, counted."""
    weights = prunable_weights(trained.network)
    axes = pattern_axes(TWO_OF_FOUR, trained.network, weights)
    return bool(axes) and not Patterned(TWO_OF_FOUR, axes).broken([weight.asnumpy() for weight in weights])


def write_converter_config(path, interface, sparse=False):
    """Write converter_lite's configuration: the layout of the input, and the batch sizes if the batch is free.

    sparse: the file is in 8 bits and has 2:4; without either, the key for it would do nothing (docs/edge.md), and the
    one for weight compression always.
    Keys: MindSpore Lite's documentation, "Ascend Conversion Tool Description", tables 1 and 2. Raises InputError.
    """
    lines = ["[ascend_context]", "input_format=NCHW"]
    if interface.batch_size is None:
        shape = ",".join(map(str, (-1, *interface.image_shape)))
        batches = ",".join(f"[{batch}]" for batch in _BATCHES)
        lines += [f"input_shape=images:[{shape}]", f"dynamic_dims={batches}"]
    if sparse:
        lines += ["", "[acl_init_options]", "ge.enableSparseMatrixWeight=1"]
    with writing(path, "converter_config"):
        replace_file(path, [("\n".join(lines) + "\n").encode("utf-8")])


def adapted(model):
    """Where `adapt_command` writes the file that CANN's converters take."""
    return model.with_name(f"{model.stem}_deploy_model.onnx")


def adapt_command(model):
    """The command of CANN's AMCT that turns a quantised ONNX file (QDQ) into one of CANN's own operators."""
    files = ", ".join(json.dumps(str(name)) for name in (model, model.with_suffix("")))  # texts of Python, too
    return shlex.join(["python3", "-c", f"import amct_onnx; amct_onnx.convert_qat_model({files})"])


def converter_command(model, config, file_format):
    """The command that turns an exported file into one for Ascend, as one line for a shell."""
    words = [
        "converter_lite",
        f"--fmk={file_format}",
        f"--modelFile={model}",
        f"--outputFile={model.with_name(model.stem + '_ascend')}",
        "--saveType=MINDIR",
        "--optimize=ascend_oriented",
        f"--configFile={config}",
    ]
    return shlex.join(words)


def atc_command(model, interface, sparse=False):
    """The command of CANN's own converter for an ONNX file; CHIP stands for the name that `npu-smi info` gives.

    sparse: as in `write_converter_config`.
    """
    shape = ",".join(map(str, (interface.batch_size or -1, *interface.image_shape)))
    words = ["atc", "--framework=5", f"--model={model}", f"--output={model.with_suffix('')}", "--soc_version=CHIP"]
    words.append(f"--input_shape=images:{shape}")
    if interface.batch_size is None:
        words.append(f"--dynamic_batch_size={','.join(map(str, _BATCHES))}")
    if sparse:
        words.append("--sparsity=1")
    return shlex.join(words)

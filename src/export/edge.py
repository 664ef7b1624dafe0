"""The last step on an Ascend host: MindSpore Lite's converter_lite, its configuration and its command."""

import shlex

from ..platform.files import replace_file, writing

_BATCHES = (1, 2, 4, 8)  # the batch sizes an Ascend model is compiled for where the batch is free


def write_converter_config(path, interface):
    """Write converter_lite's configuration: the layout of the input, and the batch sizes if the batch is free.

    No key for weight compression or sparsity is in it: these act on int8 convolutions only (docs/edge.md).
    Keys: MindSpore Lite's documentation, "Ascend Conversion Tool Description", table 1. Raises InputError.
    """
    lines = ["[ascend_context]", "input_format=NCHW"]
    if interface.batch_size is None:
        shape = ",".join(map(str, (-1, *interface.image_shape)))
        batches = ",".join(f"[{batch}]" for batch in _BATCHES)
        lines += [f"input_shape=images:[{shape}]", f"dynamic_dims={batches}"]
    with writing(path, "converter_config"):
        replace_file(path, [("\n".join(lines) + "\n").encode("utf-8")])


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


def atc_command(model, interface):
    """The command of CANN's own converter for an ONNX file; CHIP stands for the name that `npu-smi info` gives."""
    shape = ",".join(map(str, (interface.batch_size or -1, *interface.image_shape)))
    words = ["atc", "--framework=5", f"--model={model}", f"--output={model.with_suffix('')}", "--soc_version=CHIP"]
    words.append(f"--input_shape=images:{shape}")
    if interface.batch_size is None:
        words.append(f"--dynamic_batch_size={','.join(map(str, _BATCHES))}")
    return shlex.join(words)

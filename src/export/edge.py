"""The last step on an Ascend host: MindSpore Lite's converter_lite, its configuration and its command."""

import shlex

from ..platform.files import replace_file, writing

_BATCHES = (1, 2, 4, 8)  # the batch sizes an Ascend model is compiled for where the batch is free


def write_converter_config(path, interface):
    """Write converter_lite's configuration: weight compression on, and the batch sizes if the batch is free.

    Keys: MindSpore Lite's documentation, "Ascend Conversion Tool Description", tables 1 and 2. Raises InputError.
    """
    lines = ["[acl_init_options]", "ge.enableCompressWeight=true"]
    if interface.batch_size is None:
        shape = ",".join(map(str, (-1, *interface.image_shape)))
        batches = ",".join(f"[{batch}]" for batch in _BATCHES)
        lines += ["", "[ascend_context]", f"input_shape=images:[{shape}]", f"dynamic_dims={batches}"]
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

"""From a checkpoint to a file of one of the formats, checked, and back."""

from pathlib import Path

from mindspore import Tensor

from ..platform.errors import InputError
from ..platform.files import check_new, writing
from ..weights.checkpoint import count_nonzeros, read_checkpoint, write_checkpoint
from ..weights.trained import check_nonzeros, check_pattern, load_trained
from .deployed import describe_interface, finite_outputs, prepare
from .files import new_file, scratch_folder
from .mindir import export_air, export_mindir
from .packed import pack, unpack
from .report import Exported, check_dense, count_zeros, largest_deviation

SUFFIXES = {"MINDIR": ".mindir", "ONNX": ".onnx", "AIR": ".air", "PACKED": ".packed", "SPARSE": ".sparse"}


def output_path(source, name, suffix, overwrite=False, values="fp32"):
    """Where to write: `name` with `suffix` if it has not got it, or `source` with `suffix`.

    values: of the weights; any but fp32 are in its default name, since they make it another file.
    Raises InputError, also if the file exists, unless `overwrite`.
    """
    if not Path(source).name:
        raise InputError(f"command line: {source!r} is not the name of a file")
    path = Path(name) if name else Path(source).with_suffix(suffix if values == "fp32" else f".{values}{suffix}")
    if path.suffix != suffix:
        path = path.with_name(path.name + suffix)
    if not path.parent.is_dir():
        raise InputError(f"file_name: the folder {path.parent} does not exist")
    if path.is_dir() or path.resolve() == Path(source).resolve():
        raise InputError(
            f"file_name: {path} is {'a folder' if path.is_dir() else 'the input file'}; choose another name"
        )
    check_new(path, overwrite, "file_name")
    return path


def load_for_export(ckpt, network=None):
    """The Trained of a checkpoint whose zeros are those of the end of training, in their pattern; see `load_trained`.

    Raises InputError.
    """
    trained = load_trained(ckpt, network)
    check_nonzeros(trained, ckpt)
    check_pattern(trained, ckpt)
    return trained


def unmet_target(trained):
    """A line on a network that has fewer zeros than its run was to reach, or None."""
    weights = trained.weights()
    size = sum(weight.size for weight in weights.values())
    left, target = sum(count_nonzeros(weights).values()), trained.target()
    if left <= target:
        return None
    # As the run was told it, unless a pattern leaves layers as they are.
    share = 1 - target / size if trained.config.pattern else trained.config.sparsity
    return (
        f"its sparsity, counted, is {100 * (1 - left / size):.4f} %; its run's target is {100 * share:g} %: "
        "let the run reach its end, and export what it leaves then"
    )


def export_graph(ckpt, file_format, path, interface, fold_bn=False, network=None):
    """Write a MINDIR, ONNX, AIR or SPARSE file of a checkpoint; returns an Exported.

    network: what builds one's own, see `load_trained`. Raises InputError or RuntimeError.
    """
    if file_format in ("ONNX", "SPARSE"):
        try:
            if file_format == "ONNX":
                from .onnx import export_onnx as export
            else:
                from .sparse.export import export_sparse as export
        except ImportError as error:
            raise InputError(
                f"file_format: {file_format} needs {error.name}; run: pip install onnx onnxruntime"
            ) from None
    else:
        export = {"MINDIR": export_mindir, "AIR": export_air}[file_format]
    return export(prepare(load_for_export(ckpt, network), interface, fold_bn), path)


def export_int8(ckpt, path, interface, images, evaluate=False, network=None):
    """Write an ONNX file of a checkpoint in 8 bits, BatchNorm folded; returns an Exported and an Accuracy or None.

    images: how many training images the ranges of activations are taken from; evaluate: compare its accuracy with that
    of the float32 file. Raises InputError or RuntimeError.
    """
    try:
        from . import int8
        from .onnx import export_onnx
    except ImportError as error:
        raise InputError(f"quantize: int8 needs {error.name}; run: pip install onnx onnxruntime") from None
    trained = load_for_export(ckpt, network)
    calibration = int8.calibration_images(trained, interface, images)
    deployment = prepare(trained, interface, fold_bn=True)
    with scratch_folder(path) as folder:
        float_file = folder / "float32.onnx"
        export_onnx(deployment, float_file)
        exported = int8.export_int8(deployment, float_file, path, calibration)
        return exported, int8.compare_accuracy(trained, float_file, path) if evaluate else None


def export_packed(ckpt, path, values="fp32", network=None):
    """Write a PACKED file of a checkpoint, unpack it and compare; returns an Exported.

    Raises InputError, or RuntimeError if the unpacked checkpoint differs (with fp32, in a single bit of a tensor).
    """
    trained = load_for_export(ckpt, network)
    tensors, description = read_checkpoint(ckpt)
    images = describe_interface(trained, batch_size=2).random_images()
    expected = finite_outputs(trained.network, images)
    with new_file(path) as written:
        if values != "fp32":  # which rounds what is tiny to zero
            written.write_bytes(pack(tensors, description, values))
            rounded, _ = unpack(written)
            nonzeros = count_nonzeros({name: rounded[name] for name in trained.weights()})
            description = {**description, "nonzeros": nonzeros}
        written.write_bytes(pack(tensors, description, values))
        unpacked, unpacked_description = unpack(written)
        if values == "fp32":
            same = unpacked_description == description and list(unpacked) == list(tensors)
            if not (same and all(unpacked[name].tobytes() == tensor.tobytes() for name, tensor in tensors.items())):
                raise RuntimeError(f"{path}: unpacks to something else; the file is not usable")
        check_dense(path, unpacked, trained.dense_parameters())
        restored = written.with_name("restored.ckpt")
        write_checkpoint(restored, unpacked, unpacked_description)
        again = load_trained(restored, network).network
        deviation = largest_deviation(expected, again(Tensor(images)).asnumpy())
        zeros, count = count_zeros(path, unpacked, {name: unpacked[name] for name in trained.weights()})
        size = written.stat().st_size
    return Exported(path, size, deviation, zeros, count)


def unpack_checkpoint(packed, path):
    """Write the checkpoint that a PACKED file holds. Raises InputError."""
    tensors, description = unpack(packed)
    with writing(path, "file_name"):
        write_checkpoint(path, tensors, description)


def describe_checkpoint(ckpt, trained):
    """The row of the report that the others are compared with."""
    weights = trained.weights()
    zeros, count = count_zeros(ckpt, weights, weights)
    return Exported(ckpt, Path(ckpt).stat().st_size, 0.0, zeros, count)

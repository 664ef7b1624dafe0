"""MINDIR and AIR: MindSpore's own formats."""

import shutil
import tempfile
from pathlib import Path

import mindspore as ms
import numpy as np
from google.protobuf.message import DecodeError
from mindspore import Tensor, nn
from mindspore.train.mind_ir_pb2 import ModelProto

from ..platform.errors import InputError
from ..platform.files import GIB, read_regular
from .files import is_utf8, new_file
from .mindir_graph import check_model
from .report import Exported, check_dense, check_outputs, count_zeros

_LARGEST_FILE = 2 * GIB  # protobuf's limit


def export_mindir(deployment, path):
    """Write a MINDIR of a Deployment with its Interface inside, reload it through GraphCell and compare.

    Returns an Exported. Raises RuntimeError if the reloaded file does not give the same outputs or has other zeros.
    """

    def add_metadata(model):
        put_metadata(model.user_info, deployment.interface.to_metadata())

    with new_file(path) as written:
        ms.export(
            deployment.network,
            deployment.interface.signature(),
            file_name=str(written.with_suffix("")),
            file_format="MINDIR",
            custom_func=add_metadata,
        )
        written.with_suffix(".mindir").replace(written)
        reloaded = load_graph(written)
        outputs = reloaded(Tensor(deployment.images)).asnumpy()
        deviation = check_outputs(path, deployment.outputs, outputs, deployment.tolerance)
        stored = stored_weights(written)
        zeros, count = count_zeros(path, stored, deployment.weights)
        check_dense(path, stored, deployment.dense)
        size = written.stat().st_size
    return Exported(path, size, deviation, zeros, count)


def load_graph(path):
    """The Cell of a MINDIR file. Raises OSError, or what MindSpore raises for a file that it does not take."""
    if not is_utf8(path):  # MindSpore takes no such name; a copy has another
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "copy.mindir"
            shutil.copyfile(path, copy)
            return nn.GraphCell(ms.load(str(copy)))
    return nn.GraphCell(ms.load(str(path)))


def read_model(path, where):
    """The ModelProto of a MINDIR file of unknown origin, as far as can be seen fit for `load_graph`.

    It is one graph of computations with its weights inside, each node after those that it reads from: MindSpore itself
    does not check that. Raises InputError that begins with `where`.
    """
    model = ModelProto()
    try:
        model.ParseFromString(read_regular(path, f"{where}: cannot be read", _LARGEST_FILE))
        check_model(model)
    except (DecodeError, ValueError) as error:
        reason = "" if isinstance(error, (DecodeError, UnicodeError)) else f": {error}"
        raise InputError(f"{where} is not a MINDIR file, or a damaged one{reason}") from None
    return model


def read_metadata(path):
    """The metadata of a MINDIR file, text by key."""
    return get_metadata(read_model(path, str(path)).user_info)


def put_metadata(field, metadata):
    """Put texts by key into a metadata field of a protobuf message: a map, or a list of entries.

    MindSpore before 2.10 declares its map such that protobuf after 4.21 takes it for a list; files have the same bytes.
    """
    for key, value in metadata.items():
        if hasattr(field, "add"):
            field.add(key=key, value=value)
        else:
            field[key] = value


def get_metadata(field):
    """The texts by key of such a field."""
    return {entry.key: entry.value for entry in field} if hasattr(field, "add") else dict(field)


def export_air(deployment, path):
    """Write an AIR file, which only an Ascend backend can do; it cannot be reloaded for a comparison.

    Raises InputError where there is no Ascend backend, or the batch is not fixed.
    """
    if not ms.hal.is_available("Ascend"):
        raise InputError(
            "file_format: AIR needs MindSpore's Ascend backend, which is not present here; "
            "export a MINDIR and convert it on the Ascend host (docs/edge.md)"
        )
    if deployment.interface.batch_size is None:
        raise InputError("dynamic_batch: AIR takes a fixed batch; give --batch_size")
    with new_file(path) as written:
        signature = deployment.interface.signature()
        ms.export(deployment.network, signature, file_name=str(written.with_suffix("")), file_format="AIR")
        written.with_suffix(".air").replace(written)
        size = written.stat().st_size
    return Exported(path, size, None, None, None)


def stored_weights(path):
    """Float32 arrays of a MINDIR file, by the parameter's name (the file puts the graph's name before it)."""
    arrays = {}
    for parameter in read_model(path, str(path)).graph.parameter:
        if len(parameter.raw_data) == 4 * np.prod(parameter.dims):
            array = np.frombuffer(parameter.raw_data, np.float32).reshape(tuple(parameter.dims))
            arrays[parameter.name.rpartition(":")[2]] = array
    return arrays

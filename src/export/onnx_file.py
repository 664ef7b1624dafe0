"""Reading ONNX files of unknown origin: what could run without end, or read other files, is refused before it is run.

Without loops and functions a file's operators run once each, and onnxruntime takes its memory from an arena of limited
size, for constants too: what a file of a few bytes can cost is bounded.
"""

from functools import cache

import onnx
import onnxruntime
from google.protobuf.message import DecodeError

from ..platform.errors import InputError
from ..platform.files import GIB, read_regular

_LARGEST_FILE = 2 * GIB  # protobuf's limit
MOST_MEMORY = 4 * GIB  # of all sessions of a process together
_STATE = onnxruntime.capi.onnxruntime_pybind11_state
FAILURES = tuple(
    getattr(_STATE, name)
    for name in ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")
)


def read_model(path, where):
    """The ModelProto of an ONNX file whose weights are inside it, without loops, branches and functions of its own.

    Raises InputError that begins with `where`.
    """
    model = onnx.ModelProto()
    try:
        model.ParseFromString(read_regular(path, f"{where}: cannot be read", _LARGEST_FILE))
        if not model.graph.node:
            raise ValueError
    except (DecodeError, ValueError):
        raise InputError(f"{where}: not an ONNX file, or a damaged one") from None
    refused = next(_refused(model), None)
    if refused:
        raise InputError(f"{where}: it has {refused}; give a file that holds one plain graph with its weights")
    return model


def open_onnx(path, threads=0, where=None):
    """An onnxruntime session of such a file on the CPU; 0 threads: as many as there are cores.

    Raises InputError that begins with `where` (the path by itself) for a file that is not taken. A run of it may raise
    what FAILURES holds.
    """
    where = where or str(path)
    return open_model(read_model(path, where), where, threads)


def open_model(model, where, threads=0, optimised_path=None):
    """The session of a ModelProto that `read_model` has returned; see `open_onnx`.

    optimised_path: where to write the model as it is after the basic optimisation; no other is then made.
    """
    _limit_memory()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what it says of the exporter's shape hints means nothing, of errors we tell
    options.add_session_config_entry("session.use_env_allocators", "1")
    if optimised_path is not None:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(optimised_path)
    content = model.SerializeToString()
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except (*FAILURES, ValueError):
        raise InputError(f"{where}: not an ONNX file, or a damaged one") from None


@cache
def _limit_memory():
    """Give all sessions that ask for it one arena."""
    where = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator(where, onnxruntime.OrtArenaCfg({"max_mem": MOST_MEMORY}))


def _refused(model):
    """What a file has that is refused, in words."""
    if model.functions:
        yield "functions of its own"
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs:
                yield f"a graph inside a graph ({node.op_type})"
            if any(map(_is_outside, (attribute.t, *attribute.tensors))):
                yield "values in other files"
    sparse = (part for tensor in model.graph.sparse_initializer for part in (tensor.values, tensor.indices))
    if any(map(_is_outside, (*model.graph.initializer, *sparse))):
        yield "values in other files"


def _is_outside(tensor):
    return tensor.data_location == onnx.TensorProto.EXTERNAL or len(tensor.external_data) > 0

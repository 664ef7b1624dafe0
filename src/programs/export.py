"""Export a checkpoint for deployment: python export.py --ckpt FILE [--file_format MINDIR|ONNX|AIR|PACKED|SPARSE]"""

from functools import partial

from mindspore import Tensor

from ..export import edge, formats
from ..export.deployed import describe_interface
from ..export.multiply_adds import count_multiply_adds, format_multiply_adds
from ..export.packed import VALUES
from ..export.report import format_exported
from ..platform.command_line import Parser, add_network, positive
from ..platform.device import select_device
from ..platform.errors import InputError, run_program, tell
from ..platform.files import check_new

CALIBRATION_IMAGES = 256
NOT_SPARSE = ("batch_size", "dynamic_batch", "fold_bn", "converter_config")
GRAPH_OPTIONS = (*NOT_SPARSE, "normalize", "softmax")
MOST_POINTS_LOST = 0.5  # of top-1, before int8 is worth a warning


def main():
    """Export or unpack the file on the command line."""
    arguments = parse()
    if arguments.unpack is not None:
        path = formats.output_path(arguments.unpack, arguments.file_name, ".ckpt", arguments.overwrite)
        formats.unpack_checkpoint(arguments.unpack, path)
        print(f"{path}: {path.stat().st_size:,} bytes")
        return
    select_device(arguments.device_target)
    values = arguments.values or arguments.quantize or "fp32"
    suffix = formats.SUFFIXES[arguments.file_format]
    path = formats.output_path(arguments.ckpt, arguments.file_name, suffix, arguments.overwrite, values)
    config = path.with_name(path.name + ".converter.cfg") if arguments.converter_config else None
    if config:
        check_new(config, arguments.overwrite, "converter_config")
    trained = formats.load_for_export(arguments.ckpt, arguments.network)
    unmet = formats.unmet_target(trained)
    if unmet:
        tell("warning", f"{arguments.ckpt}: {unmet}")
    batch_size = None if arguments.dynamic_batch else arguments.batch_size or 1
    interface = describe_interface(trained, batch_size, arguments.normalize, arguments.softmax)
    accuracy, network = None, arguments.network
    if arguments.file_format == "PACKED":
        exported = formats.export_packed(arguments.ckpt, path, values, network)
    else:
        if arguments.quantize:
            images = arguments.calibration_images or CALIBRATION_IMAGES
            exported, accuracy = formats.export_int8(
                arguments.ckpt, path, interface, images, arguments.evaluate, network
            )
        else:
            exported = formats.export_graph(
                arguments.ckpt, arguments.file_format, path, interface, arguments.fold_bn, network
            )
        shape = "x".join(map(str, (batch_size or "N", *trained.image_shape)))
        print(f"input: float32 {shape}, {'grey values 0 to 255' if arguments.normalize else 'normalised'}; ", end="")
        print(f"output: {'probabilities' if arguments.softmax else 'logits'} of {len(interface.classes)} classes")
    print(format_exported([formats.describe_checkpoint(arguments.ckpt, trained), exported]))
    if exported.note:
        print(exported.note)
    if accuracy:
        print(f"top-1 over {accuracy.images} test images: int8 {accuracy.int8:.2f} %, float32 {accuracy.float32:.2f} %")
        if accuracy.float32 - accuracy.int8 > MOST_POINTS_LOST:
            tell("warning", f"{path}: int8 costs more than {MOST_POINTS_LOST} points; try more --calibration_images")
    image = interface._replace(batch_size=1, normalized=False).random_images()
    print(format_multiply_adds(count_multiply_adds(trained.network, Tensor(image))))
    if config:
        prepare_conversion(arguments, path, config, interface, trained)


def prepare_conversion(arguments, path, config, interface, trained):
    """Write the converter's configuration, and print the commands to give on the Ascend host."""
    sparse = arguments.quantize is not None and edge.has_two_of_four(trained)
    edge.write_converter_config(config, interface, sparse)
    if arguments.quantize:
        print(f"on the Ascend host, by CANN's AMCT: {edge.adapt_command(path)}")
        path = edge.adapted(path)
    print(f"on the Ascend host: {edge.converter_command(path, config, arguments.file_format)}")
    if arguments.file_format == "ONNX":
        print(f"or, with CANN alone: {edge.atc_command(path, interface, sparse)}")


def parse():
    """The command line; raises InputError for options that contradict each other."""
    parser = Parser("Export a trained network; the written file is reloaded and compared before the program ends.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--ckpt", metavar="FILE", help="best.ckpt or last.ckpt of a run")
    source.add_argument("--unpack", metavar="FILE", help="PACKED file to turn back into a checkpoint")
    add_network(parser)
    parser.add_argument("--file_format", default="MINDIR", choices=tuple(formats.SUFFIXES))
    parser.add_argument("--file_name", metavar="OUT", help="file to write (default: beside the input)")
    parser.add_argument("--batch_size", type=positive, help="images per call (default: 1)")
    parser.add_argument("--dynamic_batch", action="store_true", help="any number of images per call")
    parser.add_argument("--fold_bn", action="store_true", help="fold BatchNorm into the convolutions")
    parser.add_argument("--normalize", action="store_true", help="take grey values 0 to 255, normalise in the graph")
    parser.add_argument("--softmax", action="store_true", help="return probabilities instead of logits")
    parser.add_argument("--values", choices=tuple(VALUES), help="precision of PACKED weights (default: fp32)")
    parser.add_argument("--quantize", choices=("int8",), help="8 bits for weights and activations of an ONNX file")
    parser.add_argument(
        "--calibration_images",
        type=positive,
        metavar="N",
        help=f"training images that give the ranges of activations (default: {CALIBRATION_IMAGES})",
    )
    parser.add_argument("--evaluate", action="store_true", help="print int8's accuracy over the test images too")
    parser.add_argument("--converter_config", action="store_true", help="write converter_lite's configuration too")
    parser.add_argument("--overwrite", action="store_true", help="replace the files to write, if they exist")
    parser.add_argument("--device_target", default="auto", choices=("auto", "CPU", "GPU", "Ascend"))
    arguments = parser.parse_args()
    check_options(arguments)
    return arguments


def check_options(arguments):
    """Raise InputError for options that contradict each other or the format."""
    kind = "PACKED" if arguments.unpack is not None else arguments.file_format
    if arguments.unpack is not None:
        refuse(arguments, ["network"], "unpacking builds no network")
    if kind == "PACKED":
        refuse(arguments, GRAPH_OPTIONS, "a PACKED file holds the checkpoint as it is")
    if kind == "SPARSE":
        refuse(arguments, NOT_SPARSE, "a SPARSE file takes any batch, BatchNorm folded")
    if kind != "PACKED" or arguments.unpack is not None:
        refuse(arguments, ["values"], "only for --file_format PACKED")
    if kind != "ONNX":
        refuse(arguments, ["quantize"], "only for --file_format ONNX")
    if not arguments.quantize:
        refuse(arguments, ["calibration_images", "evaluate"], "only with --quantize int8")
    if arguments.dynamic_batch:
        refuse(arguments, ["batch_size"], "contradicts dynamic_batch", "leave one out")


def refuse(arguments, names, why, mend="leave it out"):
    """Raise InputError if one of these options is given."""
    for name in names:
        if getattr(arguments, name):
            raise InputError(f"command line: {name}: {why}; {mend}")


program = partial(run_program, main)

"""Export a checkpoint for deployment: python export.py --ckpt FILE --file_format MINDIR [--file_name OUT]"""

from pathlib import Path

import src  # noqa: F401  sets the environment before mindspore loads
from src.command_line import Parser, positive
from src.device import select_device
from src.errors import InputError, run_program
from src.export import export_mindir
from src.trained import load_trained


def main():
    """Export the checkpoint on the command line."""
    parser = Parser("Export a trained network; the written file is reloaded and compared before the program ends.")
    parser.add_argument("--ckpt", required=True, metavar="FILE", help="best.ckpt or last.ckpt of a run")
    parser.add_argument("--file_format", default="MINDIR", choices=("MINDIR",))
    parser.add_argument("--file_name", metavar="OUT", help="file to write (default: beside the checkpoint)")
    parser.add_argument("--batch_size", type=positive, default=1, help="images per call (default: 1)")
    parser.add_argument("--dynamic_batch", action="store_true", help="any number of images per call")
    parser.add_argument("--device_target", default="auto", choices=("auto", "CPU", "GPU", "Ascend"))
    arguments = parser.parse_args()

    select_device(arguments.device_target)
    trained = load_trained(arguments.ckpt)
    path = Path(arguments.file_name or arguments.ckpt).with_suffix(".mindir")
    if not path.parent.is_dir():
        raise InputError(f"file_name: the folder {path.parent} does not exist")
    batch_size = None if arguments.dynamic_batch else arguments.batch_size
    exported = export_mindir(trained.network, trained.image_shape, path, batch_size)
    shape = ("N" if batch_size is None else batch_size, *trained.image_shape)
    print(f"{exported.path}: input float32 {'x'.join(map(str, shape))}, {exported.bytes:,} bytes")
    print(f"reloaded: largest relative deviation of the logits {exported.deviation:.1e}")


if __name__ == "__main__":
    run_program(main)

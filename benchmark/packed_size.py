"""How small a checkpoint gets: zstd, xz, PACKED, and the entropy bound.

python benchmark/packed_size.py CKPT...
"""

import lzma
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import src  # noqa: F401,I001  sets the environment before mindspore loads

import zstandard
from tabulate import tabulate

from src.weights.checkpoint import read_checkpoint
from src.platform.command_line import Parser
from src.platform.errors import run_program
from src.export.packed import mask_bytes, pack, size_bound


def rows(path):
    """Rows (what, bytes, times smaller than the checkpoint, share of the bound) of one checkpoint."""
    content = Path(path).read_bytes()
    tensors, description = read_checkpoint(path)
    mask_bound, bound = size_bound(tensors)
    mask_bound, half_bound = size_bound(tensors, "fp16")
    _, byte_bound = size_bound(tensors, "int8")
    yield "checkpoint", len(content), None
    yield "zstd -19", len(zstandard.compress(content, 19)), None
    yield "xz -9", len(lzma.compress(content, preset=9)), None
    yield "PACKED fp32", len(pack(tensors, description)), bound
    yield "  bound", bound, bound
    yield "PACKED fp16", len(pack(tensors, description, "fp16")), half_bound
    yield "  bound", half_bound, half_bound
    yield "PACKED int8", len(pack(tensors, description, "int8")), byte_bound
    yield "  bound", byte_bound, byte_bound
    yield "masks in PACKED", mask_bytes(tensors), mask_bound
    yield "  bound", mask_bound, mask_bound


def main():
    """Print one table per checkpoint."""
    parser = Parser(
        "Sizes of checkpoints by compressor; the bound is sum n H(density) + non-zeros * 32, 16 or 8 bits + rest."
    )
    parser.add_argument("ckpt", nargs="+", metavar="CKPT")
    for path in parser.parse_args().ckpt:
        dense = Path(path).stat().st_size
        table = [
            [what, f"{size:,.0f}", f"{dense / size:.2f}", "" if bound is None else f"{size / bound:.3f}"]
            for what, size, bound in rows(path)
        ]
        print(path)
        print(
            tabulate(
                table,
                ["file", "bytes", "times smaller", "of the bound"],
                disable_numparse=True,
                colalign=("left", "right", "right", "right"),
            )
        )


if __name__ == "__main__":
    run_program(main)

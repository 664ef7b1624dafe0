"""Any ONNX file for the sparse runtime: python -m src.tools.sparse_model IN.onnx OUT.sparse [--embed NAME]

With --embed NAME, OUT.c holds the file as a C array `NAME` of `NAME_size` bytes, for firmware without files; IN may
then also be a .sparse file.
"""

import re
from pathlib import Path

from ..export.files import new_file
from ..export.sparse.export import convert_onnx
from ..export.sparse.runtime import SparseModel
from ..platform.command_line import Parser
from ..platform.errors import InputError, run_program


def main():
    """Convert the file on the command line."""
    parser = Parser("Convert an ONNX file of any tool for the sparse runtime; the result is run and compared.")
    parser.add_argument("input", metavar="IN", help="file.onnx; with --embed also file.sparse")
    parser.add_argument("output", metavar="OUT", help="file.sparse; with --embed file.c")
    parser.add_argument("--embed", metavar="NAME", help="write a C array of this name")
    arguments = parser.parse_args()
    source, target = Path(arguments.input), Path(arguments.output)
    suffix = ".c" if arguments.embed else ".sparse"
    if target.suffix != suffix:
        raise InputError(f"OUT: {target} does not end in {suffix}")
    if target.resolve() == source.resolve():
        raise InputError(f"OUT: {target} is the input file; choose another name")
    if not arguments.embed:
        print(convert_onnx(source, target))
        return
    if not re.fullmatch(r"[A-Za-z_]\w*", arguments.embed, re.ASCII):
        raise InputError(f"embed: {arguments.embed} is no name in C")
    with new_file(target) as written:
        sparse = source
        if source.suffix != ".sparse":
            sparse = written.with_suffix(".sparse")
            print(convert_onnx(source, sparse))
        with SparseModel(sparse):  # which checks it
            content = sparse.read_bytes()
        written.write_text(c_array(arguments.embed, content))
    print(f"{target}: {arguments.embed}, {len(content):,} bytes")


def c_array(name, content):
    """C source of bytes."""
    rows = (", ".join(map(str, content[at : at + 24])) for at in range(0, len(content), 24))
    lines = [
        "/* A .sparse file; load it with rpg_load_memory. */",
        "#include <stddef.h>",
        "",
        f"extern const unsigned char {name}[];",
        f"extern const size_t {name}_size;",
        f"const unsigned char {name}[] = {{",
        *(f"    {row}," for row in rows),
        "};",
        f"const size_t {name}_size = sizeof {name};",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_program(main)

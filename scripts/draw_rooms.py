"""Draw docs/rooms.svg: the rooms of src/, layer by layer, and who imports whom: python scripts/draw_rooms.py

Rooms and layers are those of the import contract in pyproject.toml, arrows those of the code. An arrow that follows
from others (a imports b, b imports c) is left out, so that the picture stays readable.
"""

import ast
import sys
import textwrap
from pathlib import Path

import grimp
import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "rooms.svg"
WIDTH, HEIGHT, GAP = 2.7, 0.84, 0.35  # of a box, and between two of one layer


def layers():
    """Names of rooms, without `src.`, from the top layer to the bottom one."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (found,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [[room.strip().partition(".")[2] for room in layer.split("|")] for layer in found]


def imports(rooms):
    """Pairs (room, room that it imports), from the code itself."""
    sys.path.insert(0, str(ROOT))
    graph = grimp.build_graph("src", cache_dir=None)
    for room in rooms:
        if graph.find_children(f"src.{room}"):
            graph.squash_module(f"src.{room}")
    return {
        (room, other.partition(".")[2])
        for room in rooms
        for other in graph.find_modules_directly_imported_by(f"src.{room}")
        if other.partition(".")[2] in rooms and other != f"src.{room}"
    }


def reduced(pairs):
    """The pairs that do not follow from others."""
    below = {}

    def reach(room):
        if room not in below:
            direct = {b for a, b in pairs if a == room}
            below[room] = direct.union(*(reach(b) for b in direct)) if direct else set()
        return below[room]

    return {(a, b) for a, b in pairs if not any(b in reach(c) for x, c in pairs if x == a and c != b)}


def arrows():
    """The arrows of the picture, as sorted pairs of rooms."""
    rooms = [room for layer in layers() for room in layer]
    return sorted(reduced(imports(rooms)))


def describe():
    """Layers and arrows in one line of text, which the picture carries."""
    rows = " / ".join(", ".join(layer) for layer in layers())
    return f"{rows}: {', '.join(f'{above} > {below}' for above, below in arrows())}"


def subject(room):
    """What a room is about: the first sentence of its docstring, up to a colon."""
    file = ROOT / "src" / room / "__init__.py"
    text = ast.get_docstring(ast.parse((file if file.exists() else file.parent.with_suffix(".py")).read_text("utf-8")))
    sentence = " ".join(text.split("\n\n")[0].split()).split(". ")[0]
    return sentence.split(": ")[0].rstrip(".")


def draw(path=PICTURE):
    """Write the picture."""
    rows = layers()
    centres = {}
    for level, rooms in enumerate(rows):
        for index, room in enumerate(rooms):
            centres[room] = ((index - (len(rooms) - 1) / 2) * (WIDTH + GAP), -level * 1.25)
    figure = Figure(figsize=(12, 1.1 * len(rows)))
    FigureCanvasSVG(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for room, (x, y) in centres.items():
        corner = (x - WIDTH / 2, y - HEIGHT / 2)
        style = {"boxstyle": "round,pad=0,rounding_size=0.1", "facecolor": "#eef3f8", "edgecolor": "#35506b"}
        axes.add_patch(FancyBboxPatch(corner, WIDTH, HEIGHT, **style))
        axes.text(x, y + 0.25, room, ha="center", va="center", weight="bold", size=11)
        axes.text(x, y - 0.12, textwrap.fill(subject(room), 34), ha="center", va="center", size=7.5)
    for above, below in arrows():
        (x, y), (u, v) = centres[above], centres[below]
        bend = 0.0 if y - v < 1.5 else 0.15 * (1 if u >= x else -1)  # around the layers in between
        arrow = {"arrowstyle": "-|>", "mutation_scale": 10, "color": "#77899a", "connectionstyle": f"arc3,rad={bend}"}
        axes.add_patch(FancyArrowPatch((x, y - HEIGHT / 2), (u, v + HEIGHT / 2), zorder=0, **arrow))
    side = max(abs(x) for x, _ in centres.values()) + WIDTH / 2 + 0.2
    axes.set_xlim(-side, side)
    axes.set_ylim(-(len(rows) - 1) * 1.25 - 0.6, 0.6)
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None, "Description": describe()})


if __name__ == "__main__":
    draw()

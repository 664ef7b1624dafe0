"""A report as one HTML page that needs nothing else: pictures inside it, no scripts, nothing fetched.

What a page says is decided elsewhere (`run_report.py`); how it looks, in `page.html`.
"""

import base64
import struct
from pathlib import Path
from typing import NamedTuple, Optional

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..platform.errors import InputError
from ..platform.files import replace_file

PAGE, LAYERS = "report.html", "layers.png"
TEMPLATE = "page.html"


class Card(NamedTuple):
    """One figure in large type, with its name above and a remark below."""

    name: str
    value: str
    note: str = ""


class Picture(NamedTuple):
    """A picture: its own file's name, PNG bytes, those for a narrow screen, a description in words, and a caption."""

    name: str
    png: bytes
    narrow: bytes
    description: str
    caption: str


class Table(NamedTuple):
    """A table of strings; text: indices of columns of words, not numbers; marked: indices of rows to point out."""

    title: str
    headers: list
    rows: list
    text: tuple = ()
    marked: tuple = ()
    caption: str = ""
    folded: bool = False  # shown when asked for


class Page(NamedTuple):
    """All that a report says; origins: where it comes from, in lines; summary: a table in place of the cards."""

    title: str
    origins: list
    pictures: list
    tables: list
    cards: tuple = ()
    summary: Optional[Table] = None


def render_page(page):
    """The HTML text of a Page; whatever its strings hold is shown as text."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(page=page, data_uri=_data_uri, size=_size)


def open_report_folder(folder, overwrite):
    """Make the folder of a report, before the work for it begins; an older report in it stays unless `overwrite`.

    Raises InputError.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = any((folder / name).exists() for name in (PAGE, LAYERS))
    except OSError as error:
        raise InputError(f"report: cannot write to {folder}: {error.strerror}") from None
    if held and not overwrite:
        raise InputError(f"report: {folder} already holds a report; replace it with --overwrite, or choose another")


def write_report(folder, page):
    """Write a page and its pictures as files of their own; returns their paths, the page last.

    Each file replaces an older one in one step. Raises OSError.
    """
    files = {picture.name: picture.png for picture in page.pictures}
    files[PAGE] = render_page(page).encode("utf-8", "backslashreplace")  # of names that are not UTF-8
    paths = [Path(folder) / name for name in files]
    for path, content in zip(paths, files.values()):
        replace_file(path, [content])
    return paths


def _size(png):
    """Width and height in pixels, from the PNG header."""
    return struct.unpack(">II", png[16:24])


def _data_uri(png):
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")

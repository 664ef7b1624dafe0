"""Test pictures in one folder with a list of their labels, as ImageNet's validation pictures are distributed.

The list lies beside the folder, under one of the names in LISTS, in one of these forms, whatever its name:

  name label     a line per picture, in any order, with or without folder and suffix, divided by a tab, a comma or
                 blanks; label: the name of the class, or its place 0.. among the names in alphabetical order
  LOC_val_solution.csv of Kaggle: that with a heading, and boxes behind the label
  label          a line per picture, in the order of their names; label: the name of the class
  number         the same with ILSVRC2012_ID, of which meta.mat, in the same folder, says the names
"""

import io
import os
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np
from scipy.io import loadmat

from ..platform.errors import InputError
from ..platform.files import MIB, read_regular
from .samples import Samples

GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
LISTS = (
    "val_labels.txt",
    "val.txt",
    "LOC_val_solution.csv",
    "imagenet_2012_validation_synset_labels.txt",
    GROUND_TRUTH,
    f"ILSVRC2012_devkit_t12/data/{GROUND_TRUTH}",
)
_HEADING = "ImageId,PredictionString"
_LARGEST_FILE = 64 * MIB


class LabelList(NamedTuple):
    """What a list says: names of pictures, or None where their order says it; labels, as text; and the file."""

    path: Path
    names: Optional[list]
    labels: list

    @property
    def are_numbers(self):
        """Whether all labels are whole numbers."""
        return all(label.isascii() and label.isdigit() and len(label) < 10 for label in self.labels)


def read_list(data_path):
    """The LabelList in a data folder. Raises InputError if there is none, or one of another form."""
    path = next((Path(data_path, name) for name in LISTS if Path(data_path, name).is_file()), None)
    if path is None:
        raise InputError(
            f"data_path: {data_path}: val has pictures and no class folders; put a list of their labels beside it, as "
            f"{', '.join(LISTS[:-2])} or {GROUND_TRUTH} (docs/own_images.md)"
        )
    try:
        lines = read_regular(path, f"data_path: cannot read {path}", _LARGEST_FILE).decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"data_path: {path} is not a list of labels: not a text") from None
    rows, wanted = _rows(lines)
    for number, words in rows:
        if len(words) != wanted or not all(words):
            raise InputError(
                f"data_path: {path}: line {number} is neither `name label` nor a label alone, as all lines have to be"
            )
    if not rows:
        raise InputError(f"data_path: {path} holds no labels")
    names = [words[0] for _, words in rows] if wanted == 2 else None
    return LabelList(path, names, [words[-1] for _, words in rows])


def known_classes(data_path):
    """The names of all classes that a list, or the meta.mat beside it, has, in the order of their labels; or ()."""
    found = read_list(data_path)
    if not found.are_numbers:
        return tuple(sorted(set(found.labels)))
    return tuple(sorted(_names_by_id(found).values())) if found.names is None else ()


def load_flat(data_path, files, num_classes, classes):
    """Samples of the picture `files` (paths) with the labels of the list in `data_path`, in the order of their names.

    classes: names in the order of their labels, or () where only numbers will do. Raises InputError unless each picture
    has one label, and each label a picture and a class.
    """
    files = sorted(files, key=os.path.basename)
    found = read_list(data_path)
    labels = _numbered(found, num_classes, classes)
    if found.names is not None:
        labels = _in_order(found, labels, files)
    elif len(labels) != len(files):
        raise InputError(f"data_path: {found.path} has {len(labels):,} labels for {len(files):,} pictures")
    return Samples(np.array([os.fsencode(file) for file in files]), np.array(labels, np.int32))


def _rows(lines):
    """(number, words) of each line that is not empty, and how many words all have to have."""
    rows = [(number, _words(line)) for number, line in enumerate(lines, 1) if line.strip()]
    if lines[:1] == [_HEADING]:  # behind the label stand boxes
        return [(number, [*words[:1], *" ".join(words[1:]).split()[:1]]) for number, words in rows[1:]], 2
    return rows, 2 if rows and len(rows[0][1]) == 2 else 1


def _words(line):
    for divider in ("\t", ","):
        if divider in line:
            return [word.strip() for word in line.split(divider)]
    return line.split()


def _numbered(found, num_classes, classes):
    """The labels as numbers from 0."""
    labels, places = found.labels, {name: place for place, name in enumerate(classes)}
    if found.are_numbers and not set(labels) <= places.keys():
        if found.names is not None:
            numbers = [int(label) for label in labels]
            if max(numbers) >= num_classes:
                raise InputError(
                    f"data_path: {found.path}: {max(numbers)} is no place in alphabetical order, from 0 to "
                    f"{num_classes - 1}; write the names of the classes"
                )
            return numbers
        names = _names_by_id(found)
        labels = [names.get(int(label), label) for label in labels]
    strange = next((label for label in labels if label not in places), None)
    if strange is not None:
        whose = f"none of the network's {num_classes} classes" if places else "not known without the folder train"
        raise InputError(f"data_path: {found.path}: the class {strange} is {whose}")
    return [places[label] for label in labels]


def _in_order(found, labels, files):
    """The labels in the order of the files that the list names."""
    places = {}
    for place, file in enumerate(files):
        name = os.path.basename(file)
        places[os.path.splitext(name)[0]] = places[name] = place
    ordered = [None] * len(files)
    for name, label in zip(found.names, labels):
        place = places.get(name.rpartition("/")[2])
        if place is None:
            raise InputError(f"data_path: {found.path}: there is no picture {name}")
        if ordered[place] is not None:
            raise InputError(f"data_path: {found.path} has two labels for {name}")
        ordered[place] = label
    if None in ordered:
        raise InputError(f"data_path: {found.path} has no label for {files[ordered.index(None)]}")
    return ordered


def _names_by_id(found):
    """{ILSVRC2012_ID: name} of the classes in meta.mat of the development kit, which lies beside the list."""
    path = found.path.with_name("meta.mat")
    if not path.exists():
        raise InputError(
            f"data_path: {found.path} has numbers alone, and {path}, which says what they stand for, is missing; both "
            "are in ILSVRC2012_devkit_t12/data"
        )
    content = read_regular(path, f"data_path: cannot read {path}", _LARGEST_FILE)
    try:
        rows = loadmat(io.BytesIO(content), squeeze_me=True)["synsets"]
        names = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in rows if int(row["num_children"]) == 0}
    except Exception as error:  # scipy raises almost anything on damaged files
        raise InputError(f"data_path: {path} is not the meta.mat of ILSVRC2012: {type(error).__name__}") from None
    return names

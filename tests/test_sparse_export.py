"""SPARSE through export.py and infer.py: outputs, zeros, accuracy, what the file says of itself, the example program."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from test_programs import run_main

from src.data import digits
from src.export import formats, report
from src.export.deployed import Interface, describe_interface, prepare
from src.export.sparse import describe_gain, export_sparse
from src.export.sparse_runtime import LIBRARY, SparseModel, load_library
from src.inference import Classifier, read_image
from src.trained import load_trained

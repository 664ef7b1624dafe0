"""Classify image files with an exported network: python infer.py --model FILE.mindir|FILE.onnx|FILE.sparse IMAGE..."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # Python itself leaves it out with PYTHONSAFEPATH

from src.programs.infer import program

if __name__ == "__main__":
    program()

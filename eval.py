"""Evaluate a checkpoint, or compare two: python eval.py --ckpt FILE [--data_path DIR] [--json] [--report DIR]"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # Python itself leaves it out with PYTHONSAFEPATH

from src.programs.eval import program

if __name__ == "__main__":
    program()

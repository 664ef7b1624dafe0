"""Export a checkpoint for deployment: python export.py --ckpt FILE [--file_format MINDIR|ONNX|AIR|PACKED|SPARSE]"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # Python itself leaves it out with PYTHONSAFEPATH

from src.programs.export import program

if __name__ == "__main__":
    program()

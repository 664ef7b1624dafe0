"""Train a network and prune it while it trains: python train.py --config_path FILE [--key value ...]"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # Python itself leaves it out with PYTHONSAFEPATH

from src.programs.train import program

if __name__ == "__main__":
    program()

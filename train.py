"""Train a network and prune it while it trains: python train.py --config_path FILE [--key value ...]"""

from src.programs.train import program

if __name__ == "__main__":
    program()

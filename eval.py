"""Evaluate a checkpoint, or compare two: python eval.py --ckpt FILE [--data_path DIR] [--json] [--report DIR]"""

from src.programs.eval import program

if __name__ == "__main__":
    program()

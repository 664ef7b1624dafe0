"""Classify image files with an exported network: python infer.py --model FILE.mindir|FILE.onnx IMAGE..."""

from src.programs.infer import program

if __name__ == "__main__":
    program()

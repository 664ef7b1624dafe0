"""Export a checkpoint for deployment: python export.py --ckpt FILE [--file_format MINDIR|ONNX|AIR|PACKED]"""

from src.programs.export import program

if __name__ == "__main__":
    program()

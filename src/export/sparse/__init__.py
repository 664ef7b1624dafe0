"""SPARSE files: `graph` reads ONNX, `file` is the format, `runtime` calls the C library, `export` writes and checks."""

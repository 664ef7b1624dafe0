"""Files for deployment, one module per format, and inference with them. Each file is read back and compared with the
network before it takes its name.

May import `weights` and what is below it.
"""

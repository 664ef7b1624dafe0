"""A run from its configuration to its result: parts, plan, epochs, output folder, saving, resuming.

May import every room but `export` and `tools`.
"""

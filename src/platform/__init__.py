"""What differs between machines, devices and workers, and what every program needs: devices, environment, workers,
threads, files, errors, signals, the command line. Imports nothing else of this package.
"""

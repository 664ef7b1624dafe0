"""What a run is told: the keys with their types, ranges and meaning; YAML files and the command line on top.

Knows the names of data sets, networks and pruning methods; imports those rooms and `platform`.
"""

"""Files of weights: checkpoints of this project, trained networks from them, weights of other frameworks and their
names.

May import `config`, `models`, `pruning`, `platform`.
"""

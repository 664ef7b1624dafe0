"""The method, in the order of the paper: rank term of a layer (`rank_term`), schedule, allocation of budgets, masks,
and the pruner that applies them. Free of MindSpore but for `pruner` and `layers`; imports `platform` alone.
"""

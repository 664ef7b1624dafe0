"""The scores of a run's best and last network on the test data, where held-out images have chosen the best."""

from contextlib import contextmanager

import numpy as np

from ..weights.checkpoint import load_weights, read_checkpoint


def final_scores(progress, data, network, evaluate, best_path, workers):
    """`best` and `last` as the result gives them: dicts of epoch, top1, top5 and loss on the test data.

    With held-out images (`data.val`), the scores in `progress` are theirs, and move to the key `val`; the test data is
    then read here for the first time. network: has the last weights to deploy, and keeps them; best_path: checkpoint
    of the best; evaluate: Evaluator. Collective. Returns None if the evaluation was broken off.
    """
    if data.val is None:
        return progress.best, progress.last
    last = _with_test_scores(progress.last, evaluate(data.test))
    if last is None or progress.best["epoch"] == progress.last["epoch"]:
        return last and (last, last)
    with _weights_of(network, best_path, workers):
        best = _with_test_scores(progress.best, evaluate(data.test))
    return best and (best, last)


def _with_test_scores(record, scores):
    if scores is None:
        return None
    val = {key: record[key] for key in ("top1", "top5", "loss")}
    return {"epoch": record["epoch"], "top1": scores.top1, "top5": scores.top5, "loss": scores.loss, "val": val}


@contextmanager
def _weights_of(network, path, workers):
    """Inside, the network has the weights of a checkpoint, which only worker 0 need be able to read."""
    kept = {parameter.name: parameter.asnumpy().copy() for parameter in network.get_parameters()}
    if workers.rank == 0:
        tensors = read_checkpoint(path)[0]
    else:
        tensors = {name: np.zeros_like(array) for name, array in kept.items()}
    load_weights(network, {name: workers.sum(tensors[name]) for name in tensors}, path)
    try:
        yield
    finally:
        load_weights(network, kept, path)

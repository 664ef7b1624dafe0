"""Scalars for TensorBoard, read back by TensorBoard itself: all of metrics.jsonl, also of a run that went on."""

import json
import sys

import numpy as np
import pytest

from src.config.keys import resolve
from src.platform.errors import InputError
from src.report.tensorboard import EventFile
from src.run.folder import RunFolder
from src.run.trainer import Trainer


def line(step, **values):
    return {"epoch": step // 10, "step": step, "evaluated": "test", "top1": step / 2, "rank_loss": None, **values}


def read_scalars(folder):
    """What TensorBoard shows of a folder: {name: [(step, value)]}."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder)).Reload()
    return {name: [(event.step, event.value) for event in found.Scalars(name)] for name in found.Tags()["scalars"]}


def scalars_of(lines):
    """The same of lines of metrics.jsonl: numbers that are there, as float32."""
    scalars = {}
    for metrics in lines:
        for name in metrics.keys() - {"epoch", "step", "evaluated"}:
            if metrics[name] is not None:
                scalars.setdefault(name, []).append((metrics["step"], float(np.float32(metrics[name]))))
    return scalars


def test_every_number_is_there_at_its_step_at_once(tmp_path):
    events = EventFile(tmp_path, [line(10)], 10)
    events.add(line(20, rank_loss=-0.25))
    assert read_scalars(tmp_path) == {"top1": [(10, 5.0), (20, 10.0)], "rank_loss": [(20, -0.25)]}


def test_a_run_that_goes_on_appends_and_what_it_trains_again_is_forgotten(tmp_path):
    folder = RunFolder(tmp_path)
    for start, steps in ((0, (10, 20, 30)), (20, (30, 40))):
        folder.keep_metrics(start // 10)
        folder.open_events(start)
        for step in steps:
            folder.append_metrics(line(step, loss=start + step))
    assert len(list(folder.tensorboard.iterdir())) == 2
    lines = [json.loads(text) for text in folder.metrics.read_text().splitlines()]
    assert [metrics["loss"] for metrics in lines] == [10, 20, 50, 60]
    assert read_scalars(folder.tensorboard) == scalars_of(lines)


def test_a_run_that_had_none_so_far_brings_its_first_epochs(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append_metrics(line(10))
    folder.open_events(10)
    folder.append_metrics(line(20))
    assert read_scalars(folder.tensorboard) == {"top1": [(10, 5.0), (20, 10.0)]}


def test_the_run_that_takes_the_place_of_another_has_none_of_its_scalars(tmp_path):
    folder = RunFolder(tmp_path)
    folder.open_events(0)
    folder.append_metrics(line(10))
    folder.open(resolve({"overwrite": True}))
    folder.write_state({"a": np.zeros(2, np.float32)}, {"step": 0})
    folder.open_events(0)
    folder.release()
    assert read_scalars(folder.tensorboard) == {}


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "tensorboard").touch()
    with pytest.raises(InputError, match=r"output_path: cannot write .*/tensorboard: File exists"):
        RunFolder(tmp_path).open_events(0)


def test_without_the_package_one_line_says_so_before_training(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboardX.event_file_writer", None)
    config = resolve({"tensorboard": True, "output_path": str(tmp_path / "run")})
    with pytest.raises(InputError, match="tensorboard: needs tensorboardX; run: pip install tensorboardX"):
        Trainer(config)
    assert not (tmp_path / "run").exists()

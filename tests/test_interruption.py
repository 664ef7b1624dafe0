"""A run that is killed, stopped or damaged, and goes on to the same end, bit for bit."""

import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import reliability
from runs import ROOT, differences, digest_of_state, flip_a_byte, outcome, reference_run, start, wait_for_saves
from tiny_train import Tiny

from src.config.keys import resolve
from src.models import MODELS
from src.platform.errors import InputError, run_program
from src.platform.stopping import Stopped
from src.run.resume import check_recipe, previous_of, recipe_hash
from src.run.trainer import Trainer
from src.training.evaluation import Scores
from src.weights.checkpoint import read_checkpoint, write_checkpoint

TINY = "tests/tiny_train.py"
RESNET20 = MODELS["resnet20"]
RECIPE = {"batch_size": 128, "update_interval": 4, "warmup_epochs": 1, "sparsity": 0.8, "lr": 0.05}


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """The tiny network in this process too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "resnet20", Tiny)
        yield


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Configuration, digests of the states by step, and outcome of an uninterrupted run of the tiny network."""
    folder = tmp_path_factory.mktemp("reference")
    config = resolve({**RECIPE, "epoch_size": 6, "save_steps": 1, "output_path": str(folder)})
    return (config, *reference_run(config))


@pytest.fixture
def again(reference, tmp_path):
    """A copy of the uninterrupted run's folder, and the configuration that resumes it."""
    shutil.copytree(reference[0].output_path, tmp_path / "run")
    return tmp_path / "run", resolve({**reference[0], "output_path": str(tmp_path / "run"), "resume_ckpt": "auto"})


def end(process, timeout=600):
    """Exit code and the lines on stderr."""
    _, errors = process.communicate(timeout=timeout)
    return process.returncode, errors.splitlines()


def kill_after(folder, process, saves, delay):
    """kill -9 some saves and seconds later; returns whether the run was still going."""
    wait_for_saves(folder, saves, process)
    time.sleep(delay)
    process.kill()
    return end(process)[0] == -signal.SIGKILL


def assert_on_the_way(folder, states):
    """The state in the folder, or the copy before it, is one of the uninterrupted run."""
    path = folder / "resume.ckpt"
    path = path if path.exists() else previous_of(path)
    step = read_checkpoint(path)[1]["step"]
    assert digest_of_state(path) == states[step], f"the state after step {step} differs"
    return step


def test_a_run_killed_stopped_and_damaged_ends_like_one_that_was_not(reference, tmp_path):
    """kill -9 three times, SIGTERM once, the newest state damaged, the metrics torn: the end is the same."""
    config, states, expected = reference
    config = {**config, "output_path": tmp_path}
    resume = ["--resume_ckpt", "auto"]
    assert kill_after(tmp_path, start(TINY, config), saves=4, delay=0.005)
    first = assert_on_the_way(tmp_path, states)

    assert kill_after(tmp_path, start(TINY, config, *resume), saves=14, delay=0.012)
    assert assert_on_the_way(tmp_path, states) > first
    flip_a_byte(tmp_path / "resume.ckpt")
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 3, "st')

    process = start(TINY, config, *resume)
    wait_for_saves(tmp_path, 5, process)
    process.send_signal(signal.SIGTERM)
    code, (fallback, continuing, stopped) = end(process)
    assert code == 143
    assert fallback == (
        f"{tmp_path}/resume.ckpt is missing or damaged; "
        f"continuing from the copy before it, {tmp_path}/resume.previous.ckpt"
    )
    assert continuing.startswith("continuing after step ")
    assert stopped.startswith("stopped by SIGTERM after step ")
    assert stopped.endswith(f", saved in {tmp_path}; continue with the same command and --resume_ckpt auto")
    assert f"after step {assert_on_the_way(tmp_path, states)} of 66" in stopped

    assert kill_after(tmp_path, start(TINY, config, *resume), saves=3, delay=0.02)
    assert_on_the_way(tmp_path, states)
    code, (*fallback, continuing) = end(start(TINY, config, *resume))
    assert code == 0
    assert continuing.startswith("continuing after step ")
    # Between the two renames of a save there is only the copy, which the run then says it goes on from.
    assert all(line.startswith(f"{tmp_path}/resume.ckpt is missing or damaged") for line in fallback)
    assert differences(outcome(tmp_path), expected) == []
    reliability.check(
        "`kill -9` between two saves or inside one", "dies", "resumed from the last whole state; same end"
    )
    reliability.check(
        "SIGTERM", "finishes the step, saves, exit code 143, says how to continue", "resumed from that step; same end"
    )


DAMAGE = {
    "one byte of `resume.ckpt` changed": flip_a_byte,
    "`resume.ckpt` cut off": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "`resume.ckpt` empty": lambda path: path.write_bytes(b""),
    "`resume.ckpt` missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("fault", DAMAGE)
def test_a_damaged_state_gives_way_to_the_one_before(fault, again, reference, capsys):
    folder, config = again
    DAMAGE[fault](folder / "resume.ckpt")
    Trainer(config).run()
    first, *others = capsys.readouterr().err.splitlines()
    assert first.startswith(f"{folder}/resume.ckpt is missing or damaged; continuing from the copy before it")
    assert "continuing after step 65, recipe " in others[0]
    assert differences(outcome(folder), reference[2]) == []
    # the damaged file has not become the copy before the newest
    assert digest_of_state(folder / "resume.previous.ckpt") == reference[1][65]
    reliability.check(fault, "says so in one line, goes on", "resumed from `resume.previous.ckpt`; same end")


def test_two_damaged_states_are_an_input_error(again, capsys):
    folder, config = again
    for path in (folder / "resume.ckpt", folder / "resume.previous.ckpt"):
        path.write_bytes(path.read_bytes()[:-1])
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(SystemExit) as ended:
        run_program(lambda: Trainer(config).run())
    message = capsys.readouterr().err
    assert f"error: {folder}/resume.ckpt: " in message
    assert f"; nor is the copy before it good: {folder}/resume.previous.ckpt: " in message
    assert (ended.value.code, message.count("\n")) == (2, 1)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    reliability.check("both states damaged", "one line that names both, exit code 2", "nothing is touched")


class Interrupted(Exception):
    """Stands for a crash."""


def crash_after(trainer, step):
    """Run a trainer until it crashes after a step."""
    train = trainer.step

    class Step:
        def __call__(self, images, labels):
            if train.step == step:
                raise Interrupted
            return train(images, labels)

        def __getattr__(self, name):
            return getattr(train, name)

        def __setattr__(self, name, value):
            setattr(train, name, value)

    trainer.step = Step()
    with pytest.raises(Interrupted):
        trainer.run()


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"rank_interval": 3, "nesterov": True}, marks=pytest.mark.slow),
        pytest.param({"method": "set", "distribution": "erk"}, marks=pytest.mark.slow),
        pytest.param({"optimizer": "lion", "lr": 0.001, "method": "gmp"}, marks=pytest.mark.slow),
        {
            "amp_level": "O2",
            "ema_decay": 0.9,
            "mixup": 0.2,
            "cutmix": 1.0,
            "accumulation_steps": 2,
            "label_smoothing": 0.1,
            "optimizer": "adamw",
            "lr": 0.003,
            "grad_clip": 1.0,
        },
    ],
    ids=str,
)
def test_every_kind_of_state_goes_on_from_the_middle_of_an_epoch(settings, tmp_path):
    config = {**RECIPE, **settings, "epoch_size": 3, "save_steps": 5}
    states, expected = reference_run(resolve({**config, "output_path": str(tmp_path / "whole")}))
    assert list(states) == [0, 5, 10, 11, 15, 20, 22, 25, 30, 33]  # before the run, every fifth step, epochs' ends
    config["output_path"] = str(tmp_path / "run")
    crash_after(Trainer(resolve(config)), 18)  # step 15 of 33 is saved, the fourth of the second epoch
    assert read_checkpoint(tmp_path / "run" / "resume.ckpt")[1]["step"] == 15
    Trainer(resolve({**config, "resume_ckpt": "auto"})).run()
    assert differences(outcome(tmp_path / "run"), expected) == []


@pytest.mark.parametrize(("minutes", "saved"), [(1e-9, list(range(12))), (0, [0, 11])])
def test_saves_by_the_clock(minutes, saved, tmp_path):
    settings = {"epoch_size": 1, "save_minutes": minutes, "output_path": str(tmp_path), "method": "dense"}
    states, _ = reference_run(resolve({**RECIPE, **settings, "sparsity": 0.0}))
    assert list(states) == saved


def test_a_signal_breaks_an_evaluation_off(reference, tmp_path):
    """It is made again after the resume: the run stops between the last step of an epoch and its end."""
    config = resolve({**reference[0], "epoch_size": 6, "save_steps": 0, "output_path": str(tmp_path)})
    trainer = Trainer(config)
    average = trainer._average_statistics

    def signal_before_evaluation():
        average()
        if trainer.step.step == 22:
            signal.raise_signal(signal.SIGINT)

    trainer._average_statistics = signal_before_evaluation
    with pytest.raises(Stopped, match="stopped by SIGINT after step 22 of 66, saved") as stopped:
        trainer.run()
    assert stopped.value.exit_code == 130
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
    resumed = Trainer(resolve({**config, "resume_ckpt": "auto"}))
    resumed.run()
    assert differences(outcome(tmp_path), {**reference[2], "result": outcome(tmp_path)["result"]}) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.01, "update_interval": 3}, "recipe: lr was 0.05, is 0.01; update_interval was 4, is 3"),
        ({"ema_decay": 0.9}, "recipe: ema_decay was 0.0, is 0.9"),
        ({"seed": 3, "force": True}, "recipe: seed was 0, is 3"),
        ({"lr": 0.01, "rank_solver": "svd"}, "recipe: lr was 0.05, is 0.01; rank_solver was 'auto', is 'svd'"),
        ({"lr": 0.01, "rank_solver": "svd", "force": True}, "recipe: lr was 0.05, is 0.01"),
        ({"rank_solver": "svd"}, "recipe: rank_solver was 'auto', is 'svd'; go on all the same with --force"),
        ({"rank_solver": "svd", "accumulation_steps": 2, "pretrained": "none.ckpt", "force": True}, None),
        ({"data_path": "x", "num_workers": 1, "save_steps": 7}, None),
    ],
    ids=str,
)
def test_another_recipe_is_refused_where_it_matters(changes, message, again):
    folder, config = again
    before = {path: path.read_bytes() for path in folder.iterdir()}
    trainer = Trainer(resolve({**config, **changes}))
    if message is None:
        trainer.run()
        return
    with pytest.raises(InputError) as refused:
        trainer.run()
    assert str(refused.value) == f"resume_ckpt: {folder}/resume.ckpt comes from a run with another {message}"
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_run_goes_on_in_another_folder(again, tmp_path):
    folder, config = again
    other = resolve({**config, "resume_ckpt": str(folder / "resume.ckpt"), "output_path": str(tmp_path / "other")})
    Trainer(other).run()
    assert digest_of_state(tmp_path / "other" / "resume.ckpt") == digest_of_state(folder / "resume.ckpt")
    for name in ("best.ckpt", "last.ckpt", "metrics.jsonl"):
        assert (tmp_path / "other" / name).read_bytes() == (folder / name).read_bytes()


def test_a_key_younger_than_the_file_had_its_default():
    config = resolve({})
    saved = {key: value for key, value in config.items() if key != "ema_decay"}
    check_recipe("x", saved, config)
    with pytest.raises(InputError, match=r"ema_decay was 0\.0, is 0\.5"):
        check_recipe("x", saved, resolve({"ema_decay": 0.5}))


def test_the_hash_of_a_configuration_is_that_of_recipe_and_seed():
    assert recipe_hash(resolve({})) == recipe_hash(resolve({"output_path": "x", "num_workers": 3, "save_steps": 5}))
    others = [{"seed": 1}, {"lr": 0.2}, {"sparsity": 0.5}]
    assert len({recipe_hash(resolve(settings)) for settings in ({}, *others)}) == 4


@pytest.mark.slow
def test_interrupt_by_the_keyboard(reference, tmp_path):
    config, states, expected = reference
    config = {**config, "output_path": tmp_path}
    process = start(TINY, config)
    wait_for_saves(tmp_path, 20, process)
    process.send_signal(signal.SIGINT)
    code, (line,) = end(process)
    # MindSpore sends itself SIGTERM in its place while it runs a graph, which is most of the time.
    assert code in (130, 143)
    step = assert_on_the_way(tmp_path, states)
    stopped = f"stopped by {signal.Signals(code - 128).name} after step {step} of 66"
    assert f"{stopped}, saved in {tmp_path}; continue with" in line
    assert end(start(TINY, config, "--resume_ckpt", "auto"))[0] == 0
    assert differences(outcome(tmp_path), expected) == []
    reliability.check(
        "SIGINT (Ctrl-C)",
        "finishes the step, saves, exit code 130 (143 where MindSpore was computing), says how to continue",
        "resumed from that step; same end",
    )


@pytest.mark.slow
def test_a_disk_that_fills_up_while_training(reference, tmp_path):
    """The program itself on a small file system; it goes on when there is more space."""
    config, states, expected = reference
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=68k", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        folder = tmp_path / "run"
        config = {**config, "output_path": folder}
        code, lines = end(start(TINY, config))
        assert (code, len(lines)) == (2, 1)
        assert lines[0].startswith(f"error: output_path: cannot write {folder}/")
        assert "No space left on device" in lines[0]
        assert_on_the_way(folder, states)
        subprocess.run(["mount", "-o", "remount,size=1m", tmp_path], check=True)
        assert end(start(TINY, config, "--resume_ckpt", "auto"))[0] == 0
        assert differences(outcome(folder), expected) == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    reliability.check(
        "disk full while training", f"one line, exit code {code}", "resumed once there was space; same end"
    )


@pytest.mark.slow
def test_twenty_kills_of_the_real_program(tmp_path, capsys):
    """kill -9 at 20 random moments of one run of ResNet-20; after each, the state is that of an uninterrupted run."""
    config = resolve({**RECIPE, "epoch_size": 12, "save_steps": 1, "output_path": str(tmp_path / "whole")})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "resnet20", RESNET20)
        states, expected = reference_run(config)
    config.output_path = str(tmp_path / "killed")
    folder = tmp_path / "killed"
    random = np.random.default_rng()
    reached = []
    while len(reached) < 20:
        resume = ["--resume_ckpt", "auto"] if (folder / "resume.ckpt").exists() else []
        saves = int(random.integers(1 - bool(resume), 7))
        # Without a save to wait for, the moment lies in the start: imports, reading the state, the first compilation.
        delay = random.uniform(0, 0.3 if saves else 15)
        assert kill_after(folder, start("train.py", config, *resume), saves, delay)
        reached.append(assert_on_the_way(folder, states))
        with capsys.disabled():
            print(
                f"kill {len(reached):>2}: {saves} saves and {delay:5.2f} s later, state of step {reached[-1]} is exact"
            )
    assert end(start("train.py", config, "--resume_ckpt", "auto"))[0] == 0
    assert differences(outcome(folder), expected) == []
    with capsys.disabled():
        print(
            f"{len(reached)} of {len(reached)} resumed runs bit-identical, and so is the end after step {max(states)}"
        )


@pytest.mark.slow
def test_memory_stays_flat(tmp_path):
    """2,002 steps of ResNet-20 with 380 mask updates and 129 saves, in a process of its own."""
    program = ROOT / "tests" / "memory_run.py"
    done = subprocess.run([sys.executable, program, tmp_path], capture_output=True, text=True, check=True)
    resident = {int(step): float(size) for step, size in map(str.split, done.stdout.splitlines())}
    early, late = resident[201], resident[2001]
    print(f"resident memory {early:.1f} MiB after 201 steps, {late:.1f} MiB after 2,001: {late / early - 1:+.2%}")
    assert late < 1.02 * early


def test_a_run_does_not_go_on_over_another_one(again, tmp_path):
    """Resuming means the run in the output folder, or one that comes to a free folder; any other is not touched."""
    folder, config = again
    occupied = tmp_path / "occupied"
    Trainer(resolve({**config, "resume_ckpt": "", "seed": 5, "output_path": str(occupied)})).run()
    before = {path: path.read_bytes() for path in occupied.iterdir()}
    changes = {"resume_ckpt": str(folder / "resume.ckpt"), "output_path": str(occupied)}
    with pytest.raises(InputError, match="already holds a run"):
        Trainer(resolve({**config, **changes})).run()
    assert {path: path.read_bytes() for path in occupied.iterdir()} == before


def test_a_best_network_that_ran_ahead_of_the_state_is_replaced(again):
    """best.ckpt is written before the state; a kill between the two must not leave a best that nobody has recorded."""
    folder, config = again
    arrays, description = read_checkpoint(folder / "best.ckpt")
    write_checkpoint(folder / "best.ckpt", arrays, {**description, "epoch": 99})
    (folder / "resume.ckpt").unlink()  # the copy before it lies within the last epoch
    previous = previous_of(folder / "resume.ckpt")
    arrays, progress = read_checkpoint(previous)
    write_checkpoint(previous, arrays, {**progress, "best": {"epoch": 5, "top1": 50.0, "top5": 90.0, "loss": 1.0}})
    trainer = Trainer(config)
    trainer.evaluate = lambda data: Scores(0.0, 0.0, 9.0, 360)  # not as good as that
    trainer.run()
    assert trainer.folder.best_epoch() == trainer.progress.best["epoch"] == 6

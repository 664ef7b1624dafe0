"""The scripts: --help, links and CDPATH; the launcher: a worker that is killed, the same command again, bad input."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import reliability
from runs import differences, outcome, wait_for_saves
from test_parallel import ENVIRONMENT
from tiny_train import Tiny

from src.models import MODELS
from src.run.resume import read_run
from src.weights.checkpoint import read_checkpoint
from tests import in_process

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ["setup.sh", *sorted(path.name for path in (ROOT / "scripts").glob("run_*.sh"))]


@pytest.fixture
def project(tmp_path):
    """A project of scripts alone, with links to them elsewhere, and folders that a careless `cd` would go to."""
    shutil.copytree(ROOT / "scripts", tmp_path / "project" / "scripts")
    for name in SCRIPTS:
        (tmp_path / name).symlink_to(tmp_path / "project" / "scripts" / name)
    (tmp_path / "wrong" / "project" / "scripts").mkdir(parents=True)
    (tmp_path / "wrong" / "scripts").mkdir()
    return tmp_path / "project"


def run_script(words, folder, **environment):
    environment = {**ENVIRONMENT, "CDPATH": f"{folder}/wrong:{folder}/project/wrong", **environment}
    return subprocess.run(["bash", *words], env=environment, capture_output=True, text=True, cwd=folder)


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("words", [["--help"], ["x", "-h"]], ids=str)
def test_every_script_has_a_help_that_installs_nothing(name, words, project):
    for script in (f"project/scripts/{name}", name):
        done = run_script([script, *words], project.parent)
        assert (done.returncode, done.stderr) == (0, "")
        assert re.search(rf"^usage: bash scripts/{name}( \[?[A-Zpt]|$)", done.stdout, re.MULTILINE)
        assert not re.search("^#|set -e", done.stdout, re.MULTILINE)
    assert [path.name for path in project.iterdir()] == ["scripts"]


@pytest.mark.parametrize("script", ["project/scripts/run_eval.sh", "run_eval.sh"])
def test_scripts_find_their_project_through_links_and_in_spite_of_cdpath(script, project):
    (project / ".venv" / "bin").mkdir(parents=True)
    python = project / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    for folder in (project, project / ".venv"):
        for name in ("requirements.txt", "constraints.txt"):
            (folder / name).touch()
    done = run_script([script, "a.ckpt", "data", "--json"], project.parent)
    assert done.stdout.split() == [str(project / "eval.py"), "--ckpt", "a.ckpt", "--data_path", "data", "--json"]
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("program", "code", "noted"),
    [("", 0, "1 0\n"), ("sys.exit(3)", 3, "1 3\n"), ("os.kill(os.getpid(), 9)", 137, "1 -9\n")],
    ids=["done", "failed", "killed"],
)
def test_how_a_worker_ended_is_noted(program, code, noted, project):
    (project / "train.py").write_text(f"import os, sys\nprint(sys.argv[1:])\n{program}\n")
    done = subprocess.run(
        [sys.executable, project / "scripts" / "worker.py", project / "ends", "--seed", "2"],
        env={**os.environ, "MS_ROLE": "MS_WORKER", "RANK_ID": "1", "PYTHONUNBUFFERED": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "['--seed', '2']\n"
    assert done.returncode == code
    assert (project / "ends").read_text() == noted


def test_a_worker_that_is_told_to_stop_with_its_watcher_ends_as_it_likes(project):
    (project / "train.py").write_text(
        "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\nprint(1)\nsignal.pause()\n"
    )
    worker = subprocess.Popen(
        [sys.executable, project / "scripts" / "worker.py", project / "ends"],
        env={**os.environ, "MS_ROLE": "MS_WORKER", "RANK_ID": "0", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    worker.stdout.readline()
    os.killpg(worker.pid, signal.SIGTERM)
    worker.communicate(timeout=30)
    assert (worker.returncode, (project / "ends").read_text()) == (5, "0 5\n")


def test_a_worker_does_not_outlive_its_watcher(project):
    (project / "train.py").write_text("import os, signal\nprint(os.getpid())\nsignal.pause()\n")
    watcher = subprocess.Popen(
        [sys.executable, project / "scripts" / "worker.py", project / "ends"],
        env={**os.environ, "MS_ROLE": "MS_WORKER", "RANK_ID": "0", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
    )
    watcher.stdout.readline()
    watcher.kill()
    assert watcher.communicate(timeout=30)[0] == b""  # the end of its output: the worker has closed it


@pytest.mark.parametrize(("level", "expected"), [(None, "3"), ("1", "1"), ("3", "3"), ("4", "3"), ("x", "3")])
def test_the_scheduler_says_which_host_is_lost_at_any_log_level(level, expected, project):
    (project / "train.py").write_text("import os\nprint(os.environ['GLOG_v'])\n")
    environment = {key: value for key, value in os.environ.items() if key != "GLOG_v"}
    done = subprocess.run(
        [sys.executable, project / "scripts" / "worker.py", project / "ends"],
        env={**environment, "MS_ROLE": "MS_SCHED", **({"GLOG_v": level} if level else {})},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.returncode) == (f"{expected}\n", 0)
    assert not (project / "ends").exists()


@pytest.fixture
def tiny_project(tmp_path):
    """The project with a train.py whose network compiles in a second."""
    project = tmp_path / "tiny"
    shutil.copytree(ROOT / "scripts", project / "scripts")
    for name in (".venv", "config", "src", "requirements.txt", "requirements-test.txt", "constraints.txt"):
        (project / name).symlink_to(ROOT / name)
    (project / "train.py").symlink_to(ROOT / "tests" / "tiny_train.py")
    return project


def launch(folder, *words, root=ROOT, **environment):
    command = ["bash", root / "scripts" / "run_distribute_train.sh", "--output_path", folder, "--device_target", "CPU"]
    command += ["--epoch_size", "4", "--batch_size", "128", "--update_interval", "5", "--sparsity", "0.9", *words]
    return subprocess.Popen(
        list(map(str, command)),
        env={**ENVIRONMENT, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for_epoch(folder, epoch, job):
    deadline = time.monotonic() + 180
    metrics = folder / "metrics.jsonl"
    while not metrics.exists() or len(metrics.read_text().splitlines()) < epoch:
        assert job.poll() is None, job.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_killed_worker_ends_the_job_and_the_same_command_goes_on(tiny_project, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    job = launch(folder, root=tiny_project, GLOG_v="4")  # MindSpore itself then says nothing
    wait_for_epoch(folder, 1, job)
    first_line = (folder / "logs" / "worker_1.log").read_text().splitlines()[0]
    os.kill(int(first_line.rpartition(" ")[2]), signal.SIGKILL)
    killed = time.monotonic()
    output, _ = job.communicate(timeout=90)
    assert time.monotonic() - killed < 60
    assert job.returncode != 0
    assert "error: worker 1 of 2 failed with exit code -9" in output
    epochs = read_run(folder / "resume.ckpt")[1]["epoch"]  # the metrics may be one ahead
    assert epochs < 4

    job = launch(folder, "--resume_ckpt", "auto", root=tiny_project)
    output, _ = job.communicate(timeout=600)
    assert job.returncode == 0, output
    result = json.loads((folder / "result.json").read_text())
    assert f"epoch   {epochs + 1}/4" in output
    assert f"epoch   {epochs}/4" not in output
    assert output.count("best top-1") == 1  # worker 0 alone prints
    assert "best top-1" not in (folder / "logs" / "worker_1.log").read_text()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [11, 22, 33, 44]
    assert result["last"]["top1"] == lines[-1]["top1"]
    assert lines[-1]["density"] == pytest.approx(0.1, abs=1e-3)  # of some thousand weights
    monkeypatch.setitem(MODELS, "resnet20", Tiny)
    scores = json.loads(in_process.run("eval.py", "--ckpt", folder / "last.ckpt", "--json").stdout)
    # the averaged BatchNorm statistics are in the file, and two workers have counted 360 images
    assert (scores["top1"], scores["images"]) == (result["last"]["top1"], 360)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_job_goes_on_to_the_same_end(number, tmp_path):
    """Both workers save in the same step, the last before which they talk.

    SIGTERM goes to the launcher, as from a batch system; SIGINT to its process group, as from a terminal.
    """
    synchronised = str(number == signal.SIGTERM)  # if not, each worker's moving averages are its own
    words = ["--save_steps", "3", "--ema_decay", "0.9", "--rank_interval", "3", "--sync_batch_norm", synchronised]
    whole = launch(tmp_path / "whole", *words)
    assert whole.wait(timeout=900) == 0

    folder = tmp_path / "stopped"
    job = launch(folder, *words)
    wait_for_epoch(folder, 2, job)
    wait_for_saves(folder, 2, job)  # in the middle of the third epoch
    if number == signal.SIGINT:
        os.killpg(job.pid, number)
    else:
        job.send_signal(number)
    output, _ = job.communicate(timeout=300)
    assert job.returncode == 128 + number, output
    # Where a SIGINT comes while MindSpore runs a graph, it sends itself SIGTERM in its place.
    names = {number.name, "SIGTERM"}
    stopped = next(text for text in (f"stopped by {name} after step " for name in names) if text in output)
    assert output.count(stopped) == 1  # worker 0 alone is shown
    assert stopped in (folder / "logs" / "worker_1.log").read_text()
    step = read_checkpoint(folder / "resume.ckpt")[1]["step"]
    assert f"{stopped}{step} of 44, saved" in output
    assert step in (25, 30)

    job = launch(folder, *words, "--resume_ckpt", "auto")
    output, _ = job.communicate(timeout=900)
    assert job.returncode == 0, output
    assert f"continuing after step {step}, " in output
    assert differences(outcome(folder), outcome(tmp_path / "whole")) == []
    reliability.check(
        "SIGINT or SIGTERM to `run_distribute_train.sh`",
        "all workers stop after the same step, saved; exit code 130 or 143",
        "resumed from that step; same end",
    )


@pytest.mark.parametrize(
    ("words", "environment", "message"),
    [
        (["--sparcity", "0.5"], {}, "error: command line: unknown option --sparcity; did you mean --sparsity?"),
        (
            ["--device_target", "GPU", "--output_path", "x"],
            {"CUDA_VISIBLE_DEVICES": "0,1"},
            "error: device_target: no GPU",
        ),
        (["", "", "4", "--device_target=GPU"], {"CUDA_VISIBLE_DEVICES": "0,1"}, "error: DEVICE_NUM: 4 asked for, but"),
        (["", "", "none"], {}, "error: DEVICE_NUM: none is not a number of devices"),
        ([], {"NODE_NUM": "2"}, "error: MASTER_ADDR, MASTER_PORT: with NODE_NUM=2"),
        ([], {"NODE_RANK": "1"}, "error: NODE_RANK: 1 is not in 0..0"),
        ([], {"MASTER_PORT": "0"}, "error: MASTER_PORT: 0 is not the number of a port"),
        ([], {"MASTER_PORT": "-1"}, "error: MASTER_PORT: -1 is not the number of a port"),
        ([], {"MASTER_PORT": "99999"}, "error: MASTER_PORT: 99999 is not the number of a port"),
        (
            ["--device_target", "CPU"],
            {"MASTER_PORT": "IN USE"},
            "error: MASTER_ADDR, MASTER_PORT: cannot use 127.0.0.1:",
        ),
    ],
)
def test_bad_input_ends_before_anything_starts(words, environment, message, tmp_path):
    script = ROOT / "scripts" / "run_distribute_train.sh"
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        if environment.get("MASTER_PORT") == "IN USE":
            environment = {"MASTER_PORT": str(server.getsockname()[1])}
        done = subprocess.run(
            ["bash", script, *words], env={**ENVIRONMENT, **environment}, capture_output=True, text=True, cwd=tmp_path
        )
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


TOOLS = {
    "npu-smi": "Total Count                    : 8\n\nNPU ID                         : 0\nChip Count      : 1",
    "nvidia-smi": "GPU 0: Tesla V100 (UUID: GPU-0)\nGPU 1: Tesla V100 (UUID: GPU-1)",
}


@pytest.mark.parametrize(
    ("tools", "wanted", "usable", "variables", "found"),
    [
        ([], "auto", "true", {}, "CPU 2"),
        (["npu-smi"], "auto", "true", {}, "Ascend 8"),
        (["nvidia-smi"], "auto", "true", {}, "GPU 2"),
        (["npu-smi", "nvidia-smi"], "auto", "true", {}, "Ascend 8"),
        (["npu-smi", "nvidia-smi"], "GPU", "true", {}, "GPU 2"),
        (["npu-smi", "nvidia-smi"], "CPU", "true", {}, "CPU 2"),
        (["npu-smi", "nvidia-smi"], "auto", "false", {}, "CPU 2"),  # devices that this MindSpore cannot use
        (["npu-smi"], "auto", "true", {"ASCEND_RT_VISIBLE_DEVICES": "0,3,5"}, "Ascend 3"),
        (["nvidia-smi"], "auto", "true", {"CUDA_VISIBLE_DEVICES": "1"}, "GPU 1"),
    ],
)
def test_devices_of_a_host(tools, wanted, usable, variables, found, tmp_path):
    for name in tools:
        tool = tmp_path / name
        tool.write_text(f"#!/bin/sh\ncat <<'END'\n{TOOLS[name]}\nEND\n")
        tool.chmod(0o755)
    script = f'set -euo pipefail; . "{ROOT}/scripts/device.sh"; find_devices {usable} {wanted}; '
    clean = {key: value for key, value in os.environ.items() if not key.endswith("VISIBLE_DEVICES")}
    done = subprocess.run(
        ["bash", "-c", script + "echo $device_target $device_count"],
        env={**clean, **variables, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == found, done.stderr


def processes_of(job):
    """The command lines of the processes of a job's session that are there."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
            if int(session) == job.pid and state != "Z":
                found.append((stat.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def left_of(job):
    """The processes of an ended job that are there after the moment that one which was killed needs to be gone."""
    deadline = time.monotonic() + 5
    while processes_of(job) and time.monotonic() < deadline:
        time.sleep(0.1)
    return processes_of(job)


DISTURBED = {
    "SIGINT to `run_distribute_train.sh` while workers start": (signal.SIGINT, 130, "stopped by SIGINT"),
    "SIGTERM to `run_distribute_train.sh` while workers start": (signal.SIGTERM, 143, "stopped by SIGTERM before"),
    "SIGHUP, as of a closed terminal, to it while workers start": (signal.SIGHUP, 129, "stopped by SIGTERM before"),
    "`kill -9` of a worker while it starts": (signal.SIGKILL, 1, "error: worker 1 of 2 failed with exit code -9"),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", DISTURBED)
def test_a_job_that_is_disturbed_while_it_starts(fault, tmp_path):
    number, code, says = DISTURBED[fault]
    job = launch(tmp_path / "run")
    log = tmp_path / "run" / "logs" / "worker_1.log"
    deadline = time.monotonic() + 180
    while not log.exists() or "process" not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(int(log.read_text().split()[5]) if number == signal.SIGKILL else job.pid, number)
    sent = time.monotonic()
    output, _ = job.communicate(timeout=120)
    assert time.monotonic() - sent < 60
    assert job.returncode == code, output
    assert output.count(says) == 1
    assert left_of(job) == []
    assert not (tmp_path / "run" / "result.json").exists()
    reliability.check(fault, f"ends within a minute, exit code {code}, says so", "no process is left behind")


@pytest.mark.slow
def test_a_worker_that_stands_still_is_named(tmp_path):
    """Stopped by SIGSTOP it keeps its connections, and the others wait for it."""
    job = launch(tmp_path / "run", "--epoch_size", "200", "--sync_batch_norm", "false")
    wait_for_epoch(tmp_path / "run", 1, job)
    log = tmp_path / "run" / "logs" / "worker_1.log"
    os.kill(int(log.read_text().split()[5]), signal.SIGSTOP)
    sent = time.monotonic()
    output, _ = job.communicate(timeout=180)
    assert time.monotonic() - sent < 60
    assert job.returncode == 1, output
    assert output.count("error: worker 1 of 2 does not answer any more") == 1
    assert left_of(job) == []
    reliability.check(
        "SIGSTOP of a worker", "ends within a minute, exit code 1, names the worker", "no process is left behind"
    )


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 160 kB in the place of a run's logs."""
    logs = tmp_path / "run" / "logs"
    logs.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", logs], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield logs
    subprocess.run(["umount", "-l", logs], check=True)


def fill(folder):
    with contextlib.suppress(OSError), open(folder / "ballast", "wb", buffering=0) as file:
        while True:
            file.write(bytes(512))


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", ["no space for the logs before the start", "no space for the logs while workers start"]
)
def test_a_full_disk_for_the_logs(fault, small_disk):
    late = "while" in fault
    if not late:
        fill(small_disk)
    job = launch(small_disk.parent)
    if late:
        while not list(small_disk.glob("launcher_0.log")):
            assert job.poll() is None
            time.sleep(0.05)
        fill(small_disk)
    full = time.monotonic()
    output, _ = job.communicate(timeout=240)
    assert time.monotonic() - full < 60
    assert job.returncode == 2, output
    assert output.count(f"error: output_path: cannot write to {small_disk}: the disk is full") == 1
    assert left_of(job) == []
    assert not (small_disk.parent / "result.json").exists()
    reliability.check(fault, "one line, exit code 2", "no process is left behind")


@pytest.mark.slow
def test_two_hosts():
    done = subprocess.run(["bash", ROOT / "tests" / "check_two_hosts.sh"], capture_output=True, text=True, timeout=600)
    if done.returncode == 77:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr

"""The batch examples on a tiny pipeline: two workers give what one process gives, and go on when one is killed."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import skipcache
from tests.models.pipelines import dit, run_dit

pytestmark = pytest.mark.thorough

EXAMPLES = Path(__file__).parents[2] / "examples"
TORCHRUN = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node",
    "2",
    "--max-restarts",
    "5",
]
PATIENCE = 400  # seconds, of a machine with much other work
COUNT = 18


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    dit().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def one_process(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("one") / "out"
    finish(start([sys.executable], "torchrun_batch.py", model, out))
    return pictures(out)


def start(command, script, model, out, *more):
    size = ["--images", str(COUNT), "--batch", "3", "--steps", "20", "--speedup", "1.8"]
    arguments = [*command, str(EXAMPLES / script), "--model", str(model), "--out", str(out), *size, *more]
    one_thread = {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}
    return subprocess.Popen(
        arguments, env={**os.environ, **one_thread}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process):
    try:
        printed, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.terminate()
        raise
    assert process.returncode == 0, printed[-3000:]
    return printed


def pictures(out):
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.glob("*.png"))}
    assert list(found) == [f"{i:06d}.png" for i in range(COUNT)] and len(set(found.values())) == COUNT
    return found


def kill_one(process, out, word):
    """The first of the processes below this one whose command has the word, after the first picture is there."""
    until = time.monotonic() + PATIENCE
    while not any(out.glob("*.png")):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    workers = [child for child in psutil.Process(process.pid).children(recursive=True) if word in command_of(child)]
    assert workers and len(list(out.glob("*.png"))) < COUNT
    os.kill(workers[0].pid, signal.SIGKILL)


def command_of(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_torchrun_on_two_processes(model, one_process, tmp_path):
    printed = finish(start(TORCHRUN, "torchrun_batch.py", model, tmp_path / "out"))
    assert "process 0: 3 of 6 batches" in printed and "process 1: 3 of 6 batches" in printed
    assert pictures(tmp_path / "out") == one_process


def test_a_run_that_was_stopped_goes_on(model, one_process, tmp_path):
    process = start([sys.executable], "torchrun_batch.py", model, tmp_path / "out")
    kill_one_self(process, tmp_path / "out")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.png")}
    finish(start(TORCHRUN, "torchrun_batch.py", model, tmp_path / "out"))
    assert pictures(tmp_path / "out") == one_process
    whole = sorted(kept)[: len(kept) // 3 * 3]
    assert all(path.stat().st_mtime_ns == kept[path] for path in whole), "whole batches are not made again"
    stopped = start([sys.executable], "torchrun_batch.py", model, tmp_path / "out", "--guidance", "4")
    assert "was begun with other settings (guidance)" in stopped.communicate(timeout=PATIENCE)[0]


def kill_one_self(process, out):
    until = time.monotonic() + PATIENCE
    while len(list(out.glob("*.png"))) < 3:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    process.kill()
    process.communicate()


def test_ray_on_two_workers_goes_on_when_one_is_killed(model, one_process, tmp_path):
    process = start([sys.executable], "ray_batch.py", model, tmp_path / "out", "--workers", "2")
    kill_one(process, tmp_path / "out", "Sampler")
    assert "6 batches made" in finish(process)
    assert pictures(tmp_path / "out") == one_process


def test_ray_takes_a_calibration_along(model, tmp_path):
    """It is pickled to the workers, and gives what it gives in one process."""
    pipe = dit()
    found = skipcache.calibrate(pipe, lambda: run_dit(pipe, steps=20, batch=2), speedup=1.8, progress=False)
    found.save(tmp_path / "found.json")
    more = ["--calibration", str(tmp_path / "found.json")]
    finish(start([sys.executable], "torchrun_batch.py", model, tmp_path / "one", *more))
    finish(start([sys.executable], "ray_batch.py", model, tmp_path / "ray", "--workers", "2", *more))
    assert pictures(tmp_path / "ray") == pictures(tmp_path / "one")

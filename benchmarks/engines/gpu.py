"""`skipcache gpu`: all that only a GPU can tell, in parts, most wanted first.

A GPU may be at hand for minutes only. So each part is a command of its own that writes its file as it ends; what no
time is left for is said. With `--device cpu` the same parts are tried at reduced sizes, in few steps.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from skipcache.benchmarks.names.presets import PARTS, TEST_PART
from skipcache.benchmarks.options.engines import GpuSettings

TESTS = Path("tests") / "contract" / "test_cuda.py"


def run_gpu(settings: GpuSettings, console: Console) -> Path:
    """The file that says how each part went. A part that fails does not keep the next from running."""
    settings.out.mkdir(parents=True, exist_ok=True)
    path = settings.out / "parts.json"
    end = time.monotonic() + settings.seconds
    done: dict[str, str] = {}
    for name, command in commands(settings).items():
        start = time.monotonic()
        state = _state(command, end - start)
        done[name] = f"{state}, {time.monotonic() - start:.0f} s"
        console.print(f"{name}: {done[name]}", highlight=False)
        _write(path, done)
    console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    return path


def _state(command: list[str], seconds: float) -> str:
    if seconds <= 0:
        return "no time left"
    try:
        code = subprocess.run(command, timeout=seconds).returncode
    except subprocess.TimeoutExpired:
        return "cut, out of time"
    return "done" if code == 0 else f"failed with exit code {code}"


def _write(path: Path, done: Mapping[str, str]) -> None:
    path.write_text(json.dumps(done, indent=1) + "\n")


def commands(settings: GpuSettings) -> dict[str, list[str]]:
    """The parts asked for, by name, in the order in which they are wanted."""
    on_cpu = settings.device.startswith("cpu")
    short = ["--steps", "5", "--rounds", "1", "--one-shot", "0", "--threads", "1"]
    usual = short if on_cpu else ["--steps", "20", "--rounds", "2"]
    where = ["--device", settings.device, "--results", str(settings.out)]
    engines = {
        name: [sys.executable, "-m", "skipcache.benchmarks", "engines", *part, "--intervals", "3", *usual, *where]
        for name, part in PARTS.items()
    }
    report = f"--junitxml={settings.out / 'test-cuda.xml'}"
    every = {**engines, TEST_PART: [sys.executable, "-m", "pytest", "-q", str(TESTS), report]}
    return {name: every[name] for name in every if not settings.parts or name in settings.parts}

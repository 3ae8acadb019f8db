"""Result files: what was measured, under what it takes to repeat the run."""

from __future__ import annotations

import json
import os
import platform
import sys
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("skipcache", "torch", "diffusers", "numpy", "torchmetrics", "scikit-learn")


def write_json(path: Path, settings: Any, content: dict[str, Any]) -> None:
    """`content` under what it takes to repeat the run."""
    head = {
        "command": " ".join(["skipcache", *sys.argv[1:]]),
        "settings": asdict(settings),
        "versions": {"python": platform.python_version(), **_versions()},
    }
    path.write_text(json.dumps({**head, **content}, indent=1, default=str, allow_nan=False) + "\n")


def _versions() -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def read_json(path: Path) -> dict[str, Any]:
    """A result file. Raises ValueError for a file that is none."""
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"expected JSON in {path}, got other content: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("settings"), dict):
        raise ValueError(f"expected results with their settings in {path}, found none; make the file anew")
    return content


def describe_device(device: str) -> dict[str, Any]:
    if device.startswith("cuda"):
        return {"name": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return {"name": f"{device} ({_processor()})", "threads": torch.get_num_threads(), "cores": os.cpu_count()}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in _lines(info) if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []

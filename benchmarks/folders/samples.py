"""The sample file that ADM's evaluation suite reads, with which DiT's tables are made: arr_0, uint8, (N, H, W, 3)."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from skipcache.benchmarks.folders.measures import size_of


def write_samples(path: Path, samples: Mapping[str, np.ndarray]) -> None:
    """All pictures in the order of their names, one at a time, so that the file may be larger than memory.

    Raises ValueError for a video, and for pictures of different sizes; then nothing is written.
    """
    names = sorted(samples)
    first = samples[names[0]]
    shape = (len(names), *first.shape[:2], 3)
    partial = path.with_suffix(".part")
    try:
        with zipfile.ZipFile(partial, "w") as archive, archive.open("arr_0.npy", "w", force_zip64=True) as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for name in names:
                sample = samples[name]
                if sample.ndim != 3 or sample.shape[:2] != first.shape[:2]:
                    raise ValueError(
                        f"--npz: expected pictures of one size, got {name} of {size_of(sample)} "
                        f"beside {names[0]} of {size_of(first)}; leave --npz out"
                    )
                file.write(_eight_bits(sample).tobytes())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _eight_bits(sample: np.ndarray) -> np.ndarray:
    """(H, W, 3)"""
    if sample.dtype != np.uint8:
        sample = np.rint(sample * 255).astype(np.uint8)
    return np.repeat(sample, 3, -1) if sample.shape[-1] == 1 else sample[..., :3]

"""Samples in a folder, or in a sample file, by name; and what is in each."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageSequence
from torch import Tensor

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
ARRAYS = (".npy", ".npz")
VIDEOS = (".mp4", ".webm", ".mov", ".avi", ".mkv")
ENDINGS = (*PICTURES, *ARRAYS, *VIDEOS)
CHANNELS = (1, 3, 4)
DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L")  # of Pillow: more than 8 bits in a channel


def samples_at(path: Path) -> Mapping[str, np.ndarray]:
    """Of a folder or a sample file. Raises ValueError where there are none, or where two have one name."""
    return SampleFile(path) if path.is_file() else Folder(path)


class Folder(Mapping[str, np.ndarray]):
    """Name -> sample, read when it is asked for. A name is the path in the folder without its ending."""

    def __init__(self, root: Path) -> None:
        self.paths: dict[str, Path] = {}
        for path in sorted(root.rglob("*")):
            if path.suffix.lower() in ENDINGS and path.is_file():
                name = path.relative_to(root).with_suffix("").as_posix()
                if name in self.paths:
                    raise ValueError(f"expected one file of a name, got {self.paths[name]} and {path}; remove one")
                self.paths[name] = path
        if not self.paths:
            raise ValueError(f"expected samples in {root}, found no file that ends in {' '.join(ENDINGS)}")

    def __getitem__(self, name: str) -> np.ndarray:
        return read(self.paths[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.paths)

    def __len__(self) -> int:
        return len(self.paths)


class SampleFile(Mapping[str, np.ndarray]):
    """Pictures of one .npz file, (N, H, W, C), named by their place: 000000, 000001, ..."""

    def __init__(self, path: Path) -> None:
        self.path, self.array = path, _array(path)
        if self.array.ndim != 4 or not len(self.array):
            raise ValueError(f"{path}: expected pictures as (N, H, W, C), got the shape {tuple(self.array.shape)}")

    def __getitem__(self, name: str) -> np.ndarray:
        return _sample(self.array[int(name)], self.path)

    def __iter__(self) -> Iterator[str]:
        return (f"{i:06d}" for i in range(len(self.array)))

    def __len__(self) -> int:
        return len(self.array)


def read(path: Path) -> np.ndarray:
    """(H, W, C) or (frames, H, W, C). Raises ValueError for a file that is broken or holds something else."""
    kind = path.suffix.lower()
    if kind in ARRAYS:
        return _sample(_array(path), path)
    if kind in VIDEOS and find_spec("imageio") is None:
        raise ValueError(f"{path}: expected imageio to read it, which is not installed; pip install 'imageio[ffmpeg]'")
    try:
        return _frames(path) if kind in VIDEOS else _picture(path)
    except Exception as error:  # a decoder may fail in any way
        raise ValueError(f"{path}: expected a readable file, got a broken one: {_said(error)}") from error


def as_tensor(sample: np.ndarray) -> Tensor:
    """(1, C, H, W), or (1, C, frames, H, W), float32 in [0, 1]."""
    x = torch.from_numpy(np.ascontiguousarray(sample))
    x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
    return x.permute(2, 0, 1)[None] if x.ndim == 3 else x.permute(3, 0, 1, 2)[None]  # channels first


def _picture(path: Path) -> np.ndarray:
    """Of a file that moves (GIF, WebP), all frames."""
    with Image.open(path) as image:
        if image.mode in DEEP_MODES:
            raise ValueError(f"more than 8 bits in a channel (mode {image.mode})")
        frames = [_pixels(frame) for frame in ImageSequence.Iterator(image)]
    return frames[0] if len(frames) == 1 else np.stack(frames)


def _pixels(image: Image.Image) -> np.ndarray:
    """(H, W, 1) of grey ones, else (H, W, 3)."""
    grey = image.mode in ("1", "L", "LA")
    return np.array(image.convert("L"))[..., None] if grey else np.array(image.convert("RGB"))


def _frames(path: Path) -> np.ndarray:
    import imageio.v3

    frames: np.ndarray = imageio.v3.imread(path)
    return frames


def _array(path: Path) -> np.ndarray:
    """Of a .npz the array arr_0, or its only one. Pickles are refused."""
    try:
        loaded: Any = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            names = loaded.files
            if "arr_0" not in names and len(names) != 1:
                raise ValueError(f"no arr_0 among {len(names)} arrays")
            array: np.ndarray = loaded["arr_0" if "arr_0" in names else names[0]]
            return array
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{path}: expected an array of numbers, got a broken file: {_said(error)}") from error


def _sample(array: np.ndarray, path: Path) -> np.ndarray:
    """Channels last, uint8 or float32 in [0, 1]."""
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim in (3, 4) and array.shape[-1] not in CHANNELS and array.shape[0] in CHANNELS:
        array = np.moveaxis(array, 0, -1)  # (C, H, W) or (C, frames, H, W)
    if array.ndim not in (3, 4) or array.shape[-1] not in CHANNELS or 0 in array.shape:
        raise ValueError(
            f"{path}: expected (H, W, C) of a picture or (frames, H, W, C) of a video, with 1, 3 or 4 channels, "
            f"got the shape {tuple(array.shape)}"
        )
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f":
        raise ValueError(f"{path}: expected uint8, or floats in [0, 1], got {array.dtype}")
    if not (array.min() >= 0 and array.max() <= 1):  # NaN fails as well
        raise ValueError(f"{path}: expected floats in [0, 1], got {array.min():g} to {array.max():g}; scale them")
    return array.astype(np.float32)


def _said(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

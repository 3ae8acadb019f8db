"""Google's emoji as pictures: the npm package `emoji-datasource-google`, fetched once into the user's cache.

Only training needs it. The pictures are Google's Noto Emoji, under the Apache License 2.0; see NOTICE.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

URL = "https://registry.npmjs.org/emoji-datasource-google/-/emoji-datasource-google-16.0.0.tgz"
SHA512 = (
    "6517b17f3b3b315a0b9e6cd998db0ee132a19c0269e43fbe566e8fa54a47fe31"
    "104257a6a7797cf028d9f83a19d9f68cf51e10c5990e3c90a84fc0e53e17d0dc"
)
FOLDER = "package/img/google/64/"  # of the pictures in the archive
SIZE = 32


def fetch(url: str = URL, sha512: str = SHA512) -> Path:
    """Where the archive is; downloads its 74 MB where it is not yet. Raises ValueError for other content."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "skipcache"
    path = cache / url.rpartition("/")[2]
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url) as answer:
            content = answer.read()
        found = hashlib.sha512(content).hexdigest()
        if found != sha512:
            raise ValueError(
                f"expected an archive with sha512 {sha512} at {url}, got one with {found}; try again later"
            )
        beside = path.with_suffix(".writing")
        beside.write_bytes(content)
        beside.replace(path)  # so that a kill leaves no half of it
    return path


def read_list(archive: Path) -> list[dict[str, Any]]:
    """What the package says of each emoji: name, category, pictures, skin tones."""
    with tarfile.open(archive) as tar:
        file = tar.extractfile("package/emoji.json")
        assert file is not None
        found: list[dict[str, Any]] = json.load(file)
    return found


def read_pictures(archive: Path, names: Iterable[str]) -> dict[str, Image.Image]:
    """The pictures of these names, RGBA, of 64x64 pixels."""
    wanted, found = set(names), {}
    with tarfile.open(archive) as tar:
        for member in tar:  # in the order of the archive: to seek in compressed data takes long
            name = member.name.removeprefix(FOLDER).removesuffix(".png")
            if name in wanted and (file := tar.extractfile(member)) is not None:
                found[name] = Image.open(io.BytesIO(file.read())).convert("RGBA")
    missing = sorted(wanted - found.keys())
    if missing:
        raise ValueError(f"expected pictures of {', '.join(missing[:5])} in {archive}, got none; delete the file")
    return found


def on_white(picture: Image.Image) -> Tensor:
    """(3, 32, 32) in [-1, 1]."""
    canvas = Image.new("RGBA", picture.size, "white")
    canvas.alpha_composite(picture)
    small = canvas.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(small, dtype=np.float32)).permute(2, 0, 1) / 127.5 - 1

"""Makes `emoji_captions.txt`: a caption for each picture, out of its subcategory and its main colour or skin tone.

Run once, and again for another version of the package:
`python -m skipcache.benchmarks.references.data.emoji_catalogue > benchmarks/references/data/emoji_captions.txt`
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import rgb_to_hsv
from PIL import Image

from skipcache.benchmarks.references.data.emoji_archive import fetch, read_list, read_pictures

LEAST = 3  # pictures of a caption: those of rarer ones are left out
TONES = {"1F3FB": "light", "1F3FF": "dark"}  # of five skin tones, lest people be most of all pictures
HUES = {15: "red", 38: "orange", 65: "yellow", 165: "green", 250: "blue", 340: "purple", 360: "red"}  # in degrees, to


def catalogue() -> str:
    """One line per caption: `yellow face smiling: 1f600 1f603 ...`, the caption and its pictures."""
    archive = fetch()
    found = list(_pictures(read_list(archive)))
    pictures = read_pictures(archive, [name for name, _, _ in found])
    lines = defaultdict(list)
    for name, kind, tone in found:
        lines[f"{tone or colour(pictures[name])} {kind}"].append(name)
    return "".join(f"{text}: {' '.join(names)}\n" for text, names in sorted(lines.items()) if len(names) >= LEAST)


def _pictures(listed: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """(name, kind, skin tone or "") of each picture; people without a tone are yellow."""
    for emoji in listed:
        kind = emoji["subcategory"].replace("-", " ").replace(" & ", " ")
        if not emoji["has_img_google"] or emoji["category"] == "Component":
            continue
        tones = emoji.get("skin_variations", {})
        yield emoji["image"].removesuffix(".png"), kind, "yellow" if tones else ""
        for code, tone in TONES.items():
            if code in tones and tones[code]["has_img_google"]:
                yield tones[code]["image"].removesuffix(".png"), kind, tone


def colour(picture: Image.Image) -> str:
    """The one that most pixels have; white, grey and black count half, since outlines and shadows have them."""
    small = np.asarray(picture.resize((32, 32), Image.Resampling.BOX), dtype=np.float64) / 255
    votes: Counter[str] = Counter()
    for hue, saturation, value in rgb_to_hsv(small[small[..., 3] >= 0.5][:, :3]):
        name = _name(hue * 360, saturation, value)
        votes[name] += 1 if name in ("white", "grey", "black") else 2
    return votes.most_common(1)[0][0]


def _name(hue: float, saturation: float, value: float) -> str:
    if value < 0.3:
        return "black"
    if saturation < 0.2:
        return "white" if value > 0.85 else "grey"
    name = next(name for end, name in HUES.items() if hue <= end)
    return "brown" if name in ("red", "orange") and value < 0.7 else name


if __name__ == "__main__":
    print(catalogue(), end="")

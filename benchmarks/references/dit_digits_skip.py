"""`dit-digits-skip`: dit-digits as Skip-DiT (arXiv 2411.17616), `concat` branches trained with it from scratch."""

from __future__ import annotations

from torch import nn

import skipcache
from skipcache.benchmarks.references import dit_digits
from skipcache.benchmarks.references.judges.digits import load_judge
from skipcache.benchmarks.references.reference import Reference


def reference() -> Reference:
    plain = dit_digits.reference()
    return Reference("dit-digits-skip", build, plain.data, load_judge, plain.recipe)


def build() -> nn.Module:
    return skipcache.graft(dit_digits.build(), "concat").eval()

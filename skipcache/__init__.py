"""Skip-Cache for diffusion transformers (arXiv 2411.17616): run all blocks on some steps, only the two ends on the rest."""

from skipcache._version import __version__

__all__ = ["__version__"]

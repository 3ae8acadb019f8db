"""ComfyUI's nodes, as its `custom_nodes` folder takes them."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from skipcache.clients.comfyui.sampling import attach, report_of


class SkipCache:
    """MODEL in, MODEL out."""

    CATEGORY = "advanced/model"
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "attach"
    DESCRIPTION = "Samples diffusion transformers faster: all blocks run on some steps only."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        percent = {"min": 0.0, "max": 1.0, "step": 0.01}
        return {
            "required": {
                "model": ("MODEL",),
                "mode": (["speedup", "interval"],),
                "speedup": ("FLOAT", {"default": 2.0, "min": 1.0, "max": 10.0, "step": 0.1}),
                "interval": ("INT", {"default": 3, "min": 1, "max": 20}),
                "start_percent": ("FLOAT", {"default": 0.0, **percent}),
                "end_percent": ("FLOAT", {"default": 1.0, **percent}),
            }
        }

    def attach(
        self, model: Any, mode: str, speedup: float, interval: int, start_percent: float, end_percent: float
    ) -> tuple[Any]:
        chosen: dict[str, Any] = {"speedup": speedup} if mode == "speedup" else {"interval": interval}
        return (attach(model, start_percent=start_percent, end_percent=end_percent, **chosen),)


class SkipCacheReport:
    """The report of a model's last run. The latent passes through, so that this node runs after the sampler."""

    CATEGORY = "advanced/model"
    RETURN_TYPES = ("LATENT", "STRING")
    RETURN_NAMES = ("samples", "report")
    FUNCTION = "report"
    OUTPUT_NODE = True
    DESCRIPTION = "Says how many steps of the last run were cached, and why others were not."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": ("MODEL",), "samples": ("LATENT",)}}

    def report(self, model: Any, samples: Any) -> dict[str, Any]:
        text = report_of(model)
        return {"ui": {"text": [text]}, "result": (samples, text)}


NODE_CLASS_MAPPINGS = MappingProxyType({"SkipCache": SkipCache, "SkipCacheReport": SkipCacheReport})
NODE_DISPLAY_NAME_MAPPINGS = MappingProxyType({"SkipCache": "SkipCache", "SkipCacheReport": "SkipCache report"})

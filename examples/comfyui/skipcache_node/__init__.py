"""Copy this folder into ComfyUI's `custom_nodes`; `pip install skipcache` into ComfyUI's Python."""

from skipcache.comfyui import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]

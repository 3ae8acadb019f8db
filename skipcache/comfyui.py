"""`skipcache.comfyui`: what ComfyUI users and their `custom_nodes` folder import; it lies in `skipcache.clients`."""

from skipcache.clients.comfyui import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS, attach, report_of

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "attach", "report_of"]

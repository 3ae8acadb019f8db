"""ComfyUI: a node that makes a MODEL sample faster, and `attach`, which does it in code. ComfyUI is not imported."""

from skipcache.clients.comfyui.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
from skipcache.clients.comfyui.sampling import attach, report_of

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "attach", "report_of"]

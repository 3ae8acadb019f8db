"""Names that users type for clients are those of the room, and `import skipcache` loads none of them."""

import subprocess
import sys

from skipcache import comfyui
from skipcache.clients import comfyui as room


def test_the_short_name_of_the_comfyui_client():
    assert comfyui.__all__ == room.__all__
    assert all(getattr(comfyui, name) is getattr(room, name) for name in room.__all__)


def test_skipcache_does_not_import_its_clients():
    code = "import sys, skipcache; assert not any(m.startswith('skipcache.clients') for m in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)

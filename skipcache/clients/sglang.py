"""SGLang's diffusers backend: a plug-in that accelerates each pipeline that it loads.

An entry point in the group `sglang.multimodal_gen.plugins` names `register`. It does nothing unless the environment
variable SKIPCACHE holds settings of `skipcache.accelerate`, as a JSON object. SGLang is imported only then.
"""

from __future__ import annotations

import json
import os
from typing import Any

import skipcache

VARIABLE = "SKIPCACHE"
LOADS = "sglang.multimodal_gen.runtime.pipelines.diffusers_pipeline.DiffusersPipeline._load_diffusers_pipeline"


def register() -> None:
    """Called by SGLang in each of its processes, before it loads a model.

    Raises ValueError where SKIPCACHE holds no JSON object; SGLang logs that and goes on without it.

    Example:
        SKIPCACHE='{"speedup": 2}' sglang serve --model-path MODEL --backend diffusers
    """
    if not os.environ.get(VARIABLE):
        return
    settings = settings_of(os.environ[VARIABLE])
    from sglang.multimodal_gen.runtime.platforms.plugins import HookRegistry, HookType

    def after_load(pipe: Any, *args: Any, **kwargs: Any) -> Any:
        return skipcache.accelerate(pipe, **settings)

    HookRegistry.register(LOADS, after_load, HookType.AFTER)


def settings_of(text: str) -> dict[str, Any]:
    """The settings in `text`. Raises ValueError where it is no JSON object."""
    expected = f'{VARIABLE}: expected settings as a JSON object, such as {{"speedup": 2}}, got {text!r}'
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(expected) from error
    if not isinstance(found, dict):
        raise ValueError(expected)
    return found

"""The accelerated forwards of the models in a target."""

from __future__ import annotations

from typing import Any

from skipcache.blocks import MARK, override_of
from skipcache.runtime.forward import CachedForward
from skipcache.runtime.settings import Settings
from skipcache.stack import modules_in


def forward_for(model: Any, settings: Settings, name: str) -> CachedForward:
    """The model's forward under `settings`; one that is there already must have equal ones."""
    held = (inner.__dict__.get(MARK) for inner in model.modules())
    instead = next((forward for forward in held if forward is not None and forward.asked.stack == settings.stack), None)
    found = override_of(model, CachedForward) or instead
    if found is None:
        return CachedForward(model, settings)
    if found.asked != settings:
        where = f" ({name})" if name else ""
        raise ValueError(
            f"{type(model).__name__}{where} is accelerated with other settings, {found.asked}; "
            f"call skipcache.restore first, or accelerate with equal settings"
        )
    return found


def accelerated_in(target: Any) -> dict[str, CachedForward]:
    """As `forwards_in`. Raises ValueError where there is none."""
    forwards = forwards_in(target)
    if not forwards:
        raise ValueError(f"{type(target).__name__} is not accelerated; call skipcache.accelerate first")
    return forwards


def forwards_in(target: Any) -> dict[str, CachedForward]:
    """Those of the accelerated models in `target`, by component, under whatever wrappers."""
    found = {
        name: next((inner.__dict__[MARK] for inner in module.modules() if MARK in inner.__dict__), None)
        for name, module in modules_in(target).items()
    }
    return {name: forward for name, forward in found.items() if forward is not None}

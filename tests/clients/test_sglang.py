"""SGLang's plug-in, against a stand-in of its plug-in registry."""

import sys
from configparser import ConfigParser
from enum import Enum
from pathlib import Path
from types import ModuleType

import pytest
import torch

import skipcache
from skipcache.clients import sglang
from tests.models.pipelines import dit, run_dit

PLUGINS = "sglang.multimodal_gen.runtime.platforms.plugins"


class HookType(Enum):
    AFTER = "after"


class Registry:
    """A hook of the kind AFTER is given the result and the arguments; what it returns takes the result's place."""

    def __init__(self):
        self.hooks = {}

    def register(self, target, hook, kind=HookType.AFTER):
        assert kind is HookType.AFTER
        self.hooks[target] = hook

    def applied(self, target, original):
        def wrapper(*args, **kwargs):
            result = original(*args, **kwargs)
            changed = self.hooks[target](result, *args, **kwargs) if target in self.hooks else None
            return result if changed is None else changed

        return wrapper


@pytest.fixture
def registry(monkeypatch):
    module = ModuleType(PLUGINS)
    module.HookRegistry, module.HookType = Registry(), HookType
    parts = PLUGINS.split(".")
    for i in range(1, len(parts)):
        monkeypatch.setitem(sys.modules, ".".join(parts[:i]), ModuleType(".".join(parts[:i])))
    monkeypatch.setitem(sys.modules, PLUGINS, module)
    monkeypatch.delenv(sglang.VARIABLE, raising=False)
    return module.HookRegistry


def loaded(registry):
    """What SGLang holds after it has loaded a pipeline."""
    load = registry.applied(sglang.LOADS, lambda self, path, args: dit())
    return load(None, "a path", None)


def test_nothing_is_registered_or_imported_without_the_variable(monkeypatch):
    monkeypatch.delenv(sglang.VARIABLE, raising=False)
    monkeypatch.setitem(sys.modules, PLUGINS, None)  # an import would fail
    sglang.register()
    monkeypatch.setenv(sglang.VARIABLE, "")
    sglang.register()


@pytest.mark.parametrize("text", ["3", "interval=3", "[1]"])
def test_settings_that_are_no_object_are_refused(registry, monkeypatch, text):
    monkeypatch.setenv(sglang.VARIABLE, text)
    with pytest.raises(ValueError, match="SKIPCACHE: expected settings as a JSON object"):
        sglang.register()
    assert registry.hooks == {}


def test_each_pipeline_is_accelerated_when_it_was_loaded(registry, monkeypatch):
    plain = run_dit(loaded(registry))
    monkeypatch.setenv(sglang.VARIABLE, '{"interval": 1}')
    sglang.register()
    exact = loaded(registry)
    assert torch.equal(run_dit(exact), plain) and skipcache.report(exact).cached_steps == 0
    monkeypatch.setenv(sglang.VARIABLE, '{"speedup": 2, "engine": "hooks"}')
    sglang.register()
    faster, other = loaded(registry), skipcache.accelerate(dit(), speedup=2)
    for steps in (20, 30):  # a request of other length
        assert torch.equal(run_dit(faster, steps=steps), run_dit(other, steps=steps))
    assert skipcache.report(faster).cached_steps == 10 + 15


def test_the_entry_point_names_the_plug_in():
    setup = ConfigParser()
    setup.read(Path(__file__).parents[2] / "setup.cfg")
    named = setup["options.entry_points"]["sglang.multimodal_gen.plugins"].split("=")[1].strip()
    assert named == f"{sglang.__name__}:{sglang.register.__name__}"

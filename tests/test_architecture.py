"""The house holds: the import directions, no state at module level, one top-level package."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What each module of skipcache may import from skipcache; kept in docs/architecture.md as well.
MAY_IMPORT = {
    "_version": set(),
    "plan": set(),
    "policy": set(),
    "placed": {"policy"},
    "spread": {"policy"},
    "call": set(),
    "streams": set(),
    "predictor": {"streams"},
    "override": set(),
    "report": set(),
    "verify": set(),
    "stack": set(),
    "target": {"stack"},
    "taps": {"override", "stack", "streams"},
    "branches": {"override", "plan", "stack", "streams", "taps"},
    "checkpoint": {"branches", "stack", "streams"},
    "skip_dit": {"branches", "checkpoint", "stack"},
    "clock": {"call"},
    "drift": {"streams"},
    "lanes": {"call", "drift", "predictor", "streams"},
    "trajectory": {"call", "clock", "drift", "lanes", "policy", "predictor", "streams"},
    "wiring": {"call", "streams"},
    "hooks": {"call", "override", "plan", "predictor", "stack", "streams", "verify", "wiring"},
    "training": {
        "branches", "call", "hooks", "override", "plan", "predictor", "streams", "target", "verify",
        "wiring",
    },
    "decorators": set(),
    "skeleton": set(),
    "guard": set(),
    "record": {"skeleton"},
    "tracer": {"record"},
    "trace": {"branches", "record", "skeleton", "taps", "tracer"},
    "cut": {"record", "stack", "streams", "trace", "tracer"},
    "program": {"cut", "guard", "predictor", "record", "stack", "streams", "trace"},
    "graph": {"call", "decorators", "plan", "predictor", "program", "record", "stack", "trace", "verify"},
    "flops": {"call", "lanes", "predictor", "verify"},
    "contexts": set(),
    "forward": {
        "call", "contexts", "correction", "flops", "graph", "hooks", "override", "placed", "plan", "policy",
        "predictor", "program", "report", "stack", "trajectory", "verify",
    },
    "correction": {"call", "verify"},
    "placement": set(),
    "measure": {
        "call", "clock", "correction", "flops", "hooks", "override", "placement", "policy", "predictor", "stack",
        "streams", "trajectory",
    },
    "sampler": {"measure"},
    "fitting": {"call", "correction", "hooks", "measure", "placed", "predictor", "sampler", "trajectory"},
    "calibration": {"correction", "placed", "predictor"},
    "trials": {
        "calibration", "call", "correction", "fitting", "flops", "hooks", "measure", "placed", "placement",
        "predictor", "sampler", "spread", "verify",
    },
    "search": {"branches", "calibration", "hooks", "override", "plan", "stack", "target", "trials"},
    "api": {
        "branches", "calibration", "forward", "override", "plan", "policy", "predictor", "program", "report", "spread",
        "stack", "target",
    },
    "__init__": {
        "_version", "api", "branches", "calibration", "checkpoint", "plan", "policy", "predictor", "program", "report",
        "search", "skip_dit", "spread", "stack",
    },
}  # fmt: skip


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


@pytest.mark.parametrize("path", sorted((ROOT / "skipcache").glob("*.py")), ids=lambda p: p.stem)
def test_import_directions(path):
    ours = {name.split(".")[1] for name in imports(path) if name.startswith("skipcache.")}
    assert ours <= MAY_IMPORT[path.stem], f"{path.stem} imports {ours - MAY_IMPORT[path.stem]}"


def test_plan_and_policy_know_no_torch():
    for name in ("plan", "policy", "placed", "spread", "api"):
        assert not any(module.startswith("torch") for module in imports(ROOT / "skipcache" / f"{name}.py")), name


@pytest.mark.parametrize("path", sorted((ROOT / "adapters").glob("[!_]*.py")), ids=lambda p: p.stem)
def test_adapters_import_the_stack_alone(path):
    ours = {name for name in imports(path) if name.startswith("skipcache")}
    assert ours == {"skipcache.stack"}
    assert not any(name.split(".")[0] in ("diffusers", "transformers") for name in imports(path))


def test_benchmarks_use_the_public_api():
    for path in (ROOT / "benchmarks").rglob("*.py"):
        ours = {name for name in imports(path) if name.startswith("skipcache")}
        private = {name for name in ours if name != "skipcache" and not name.startswith("skipcache.benchmarks")}
        assert not private, f"{path.name} imports {private}"


def test_importing_skipcache_loads_no_extra_and_has_no_side_effect():
    code = (
        "import sys, warnings, torch; before = set(sys.modules); import skipcache;"
        "new = {m.split('.')[0] for m in set(sys.modules) - before};"
        "bad = new & {'diffusers', 'transformers', 'matplotlib', 'safetensors', 'sklearn', 'torchmetrics'};"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_state_at_module_level():
    """Constants and names of types alone: nothing that a run could change."""
    for path in (ROOT / "skipcache").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            assert not isinstance(node, ast.Global), path
        for node in ast.parse(path.read_text()).body:
            names = [t.id for t in node.targets if isinstance(t, ast.Name)] if isinstance(node, ast.Assign) else []
            for name in names:
                constant = name.isupper() or name.startswith("__")
                alias = name[0].isupper() and not isinstance(node.value, (ast.Dict, ast.List, ast.Set))
                assert constant or alias, f"{path.name}: {name}"

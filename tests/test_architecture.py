"""The house holds: which room imports which, no state at module level, small files, one top-level package.

The table of docs/architecture.md is read here, so that the document is the one copy of it.
"""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = ROOT / "skipcache"
MODULES = sorted(CORE.rglob("*.py"))
ROOMS = {"api", "training", *(p.name for p in CORE.iterdir() if p.is_dir() and p.name != "__pycache__")}


def name_of(path):
    """skipcache/engines/fx/cut.py -> skipcache.engines.fx.cut; packages go by their own name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree_of(path):
    return ast.parse(path.read_text())


@cache
def imported(path):
    """Full names of all that a file imports, however it is spelled: `from a import b` may mean the module a.b."""
    return tuple(walked(path))


def walked(path):
    package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def room_of(name):
    """The room that a full name lies in; None outside of skipcache, "" for the package itself."""
    parts = name.split(".")
    if parts[0] != "skipcache":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else ""


@cache
def table():
    """Room -> the rooms that it may import, out of docs/architecture.md: `| `room` | answers | `a`, `b` |`."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| `([a-z]+)(?:\.py|/)` \|[^|\n]*\|([^|\n]*)\|$", text, re.MULTILINE)
    return {room: set(re.findall(r"`([a-z]+)`", allowed)) for room, allowed in rows}


def test_the_table_names_every_room():
    assert set(table()) == ROOMS


def test_the_table_has_no_circle():
    left = {room: set(allowed) for room, allowed in table().items()}
    while left:
        free = {room for room, allowed in left.items() if not allowed & left.keys()}
        assert free, f"a circle among {sorted(left)}"
        left = {room: allowed for room, allowed in left.items() if room not in free}


@pytest.mark.parametrize(
    "path",
    [p for p in MODULES if (p.parent != CORE or p.stem in ROOMS) and room_of(name_of(p)) != "clients"],
    ids=name_of,
)
def test_rooms_import_what_the_table_allows(path):
    room = room_of(name_of(path))
    for name in imported(path):
        other = room_of(name)
        if other is None or other == room or name.startswith("skipcache._version"):
            continue
        assert other, f"{name_of(path)} imports {name}: name the room that it lies in"
        assert other in table()[room], f"{name_of(path)} imports {name}, which the table does not allow"


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("from skipcache import engines", {"skipcache.engines"}),
        ("from . import runtime", {"skipcache.runtime"}),
        ("from .engines.hooks import engine", {"skipcache.engines.hooks.engine"}),
        ("import skipcache.calibration.search as s", {"skipcache.calibration.search"}),
    ],
)
def test_the_walk_sees_every_spelling(tmp_path, monkeypatch, line, names):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "skipcache").mkdir()
    path = tmp_path / "skipcache" / "x.py"
    path.write_text(line + "\n")
    assert set(imported(path)) == names


@pytest.mark.parametrize("room", ["policies", "api"])
def test_rooms_without_torch(room):
    for path in MODULES:
        if room_of(name_of(path)) == room:
            assert not any(name.split(".")[0] == "torch" for name in imported(path)), path


@pytest.mark.parametrize("path", sorted((ROOT / "adapters").glob("[!_]*.py")), ids=lambda p: p.stem)
def test_adapters_import_the_stack_alone(path):
    names = list(imported(path))
    assert {room_of(name) for name in names if name.startswith("skipcache")} == {"stack"}
    assert not any(name.split(".")[0] in ("diffusers", "transformers") for name in names)


@pytest.mark.parametrize("path", [p for p in MODULES if room_of(name_of(p)) == "clients"], ids=name_of)
def test_clients_import_public_names_only(path):
    import skipcache

    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "skipcache" and name != "skipcache":
            assert parts[1] == "clients" or parts[1] in skipcache.__all__, f"{path.name} imports {name}"


def test_benchmarks_use_public_names_only():
    import skipcache

    for path in (ROOT / "benchmarks").rglob("*.py"):
        for name in imported(path):
            parts = name.split(".")
            if parts[0] != "skipcache" or parts[1:2] == ["benchmarks"] or name == "skipcache":
                continue
            public = parts[1] in skipcache.__all__ or name in ("skipcache.training", "skipcache._version")
            assert public, f"{path.name} imports {name}"


def test_importing_skipcache_loads_no_extra_and_has_no_side_effect():
    code = (
        "import sys, warnings, torch; before = set(sys.modules); import skipcache;"
        "new = {m.split('.')[0] for m in set(sys.modules) - before};"
        "bad = new & {'diffusers', 'transformers', 'matplotlib', 'safetensors', 'sklearn', 'torchmetrics'};"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def is_state(node):
    """A module-level value that a run could change: a list, dict or set, or an object made by a call."""
    if isinstance(node, (ast.Dict, ast.List, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)):
        return True
    if isinstance(node, ast.Call):
        made = ast.unparse(node.func).rpartition(".")[2]
        return (
            made
            not in ("frozenset", "tuple", "TypeVar", "getLogger", "ContextVar", "Lock", "object", "MappingProxyType")
            and not made[0].isupper()
        )
    return False


STATE = ["CACHE = {}", "SEEN: list = []", "NAMES = set()", "BY_NAME = dict()", "TABLE = {n: 1 for n in 'ab'}"]


@pytest.mark.parametrize("line", STATE)
def test_state_is_told_from_constants(line):
    (node,) = ast.parse(line).body
    assert is_state(node.value)


def test_no_state_at_module_level():
    """Constants, locks and names of types: nothing that a run could change."""
    for path in MODULES:
        tree = tree_of(path)
        assert not any(isinstance(node, ast.Global) for node in ast.walk(tree)), path
        for node in tree.body:
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
                name = ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)
                assert name == "__all__" or not is_state(node.value), f"{path.name}: {name}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_files_are_small(path):
    assert len(path.read_text().splitlines()) <= 250


def test_rooms_are_small():
    for top in (CORE, ROOT / "benchmarks"):
        for folder in [top, *(p for p in top.rglob("*") if p.is_dir())]:
            modules = [p.name for p in folder.glob("*.py") if p.name != "__init__.py"]
            assert len(modules) <= 12, f"{folder.name}: {modules}"


def test_every_room_says_what_it_decides():
    for folder in (p for p in CORE.rglob("*") if p.is_dir() and p.name != "__pycache__"):
        readme = folder / "README.md"
        assert readme.is_file(), f"{folder.relative_to(ROOT)} has no README.md"
        assert len(readme.read_text().splitlines()) <= 20, readme


def test_the_wheel_lists_every_room():
    listed = set(re.findall(r"^    (skipcache[\w.]*)$", (ROOT / "setup.cfg").read_text(), re.MULTILINE))
    rooms = {name_of(p) for p in CORE.rglob("__init__.py")}
    assert rooms <= listed


# The tests mirror the house

TESTS = ROOT / "tests"


@cache
def used(path):
    """Full names of all that a file imports, and of what it takes from `skipcache` by a dot."""
    nodes = (node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Attribute))
    by_dot = [node.attr for node in nodes if isinstance(node.value, ast.Name) and node.value.id == "skipcache"]
    return (*imported(path), *(f"skipcache.{name}" for name in by_dot))


@cache
def passed_on():
    """What the packages hand out: skipcache.stack.Plan -> skipcache.stack.plan.Plan."""
    packages = [path for path in MODULES if path.name == "__init__.py"]
    return {f"{name_of(p)}.{full.rpartition('.')[2]}": full for p in packages for full in imported(p)}


def module_of(name, known, aliases):
    """The module that a full name lies in, or is."""
    while aliases.get(name, name) != name:
        name = aliases[name]
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name


def folder_of_tests(path):
    """Where the tests of a module stand: those of skipcache/stack/plan.py in tests/stack."""
    return TESTS / ("contract" if path.parent == CORE else path.parent.relative_to(CORE))


@pytest.mark.parametrize(
    "path", [p for p in MODULES if not p.name.startswith("_") and room_of(name_of(p)) != "benchmarks"], ids=name_of
)
def test_each_module_has_a_test_beside_those_of_its_room(path):
    """A test file of the room takes something from the module, by whatever name it goes."""
    known, aliases = set(map(name_of, MODULES)), passed_on()
    names = [name for test in folder_of_tests(path).glob("test_*.py") for name in used(test)]
    assert name_of(path) in {module_of(name, known, aliases) for name in names}


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda p: str(p.relative_to(TESTS)))
def test_tests_share_helpers_and_not_each_other(path):
    for name in imported(path):
        if name.split(".")[0] == "tests":
            assert name.startswith("tests.models"), f"{path.name} imports {name}: put what is shared in tests/models"
    assert path.parent.parts[-1] != "models" or not path.name.startswith("test_")

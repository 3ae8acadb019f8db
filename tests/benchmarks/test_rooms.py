"""The rooms of benchmarks/: imports run one way, as its README says; no room is too big; only public names are used."""

import ast
import configparser
import re
from pathlib import Path

import pytest

import skipcache

ROOT = Path(__file__).parents[2] / "benchmarks"
PACKAGE = "skipcache.benchmarks"
ROW = re.compile(r"^\| `([\w.]+)` \| .* \| (.*) \|$", re.MULTILINE)
MAY_IMPORT = {
    room: set(re.findall(r"`([\w.]+)`", others)) for room, others in ROW.findall((ROOT / "README.md").read_text())
}
FILES = sorted(ROOT.rglob("*.py"))
PUBLIC = {*skipcache.__all__, "training"}


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join([PACKAGE, *(part for part in parts if part != "__init__")])


MODULES = {module_of(path): path for path in FILES}


def room_of(module):
    """The longest name in the table that the module is in; "" for those beside the rooms."""
    inside = module.removeprefix(PACKAGE).strip(".")
    fitting = [room for room in MAY_IMPORT if inside == room or inside.startswith(f"{room}.")]
    return max(fitting, key=len, default="")


def imports(source, module, is_package=False):
    """(module, name) of whatever is imported, however it is written; name None for `import module`."""
    here = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here.split(".")[: len(here.split(".")) - node.level + 1]) if node.level else ""
            origin = ".".join(filter(None, (base, node.module)))
            yield from ((origin, alias.name) for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
            # What comes after the first place in braces is chosen at run time.
            first = node.args[0].values[0] if isinstance(node.args[0], ast.JoinedStr) else node.args[0]
            yield getattr(first, "value", "").rstrip("."), None


def targets(path):
    """The modules of benchmarks/ that a file imports."""
    module = module_of(path)
    for origin, name in imports(path.read_text(), module, path.name == "__init__.py"):
        whole = f"{origin}.{name}"
        yield whole if whole in MODULES else origin


@pytest.mark.parametrize("path", FILES, ids=lambda path: module_of(path).removeprefix(f"{PACKAGE}."))
def test_imports_are_those_of_the_table(path):
    own = room_of(module_of(path))
    allowed = MAY_IMPORT.get(own, {"cli", "races"}) | {own}
    found = {room_of(target) for target in targets(path) if target.startswith(PACKAGE)}
    assert found <= allowed, f"{own} imports {found - allowed}"


def test_the_table_has_all_rooms_and_no_circle():
    folders = {module_of(path).removeprefix(f"{PACKAGE}.") for path in FILES if path.name == "__init__.py"} - {PACKAGE}
    assert set(MAY_IMPORT) == folders
    left = dict(MAY_IMPORT)
    while left:
        free = [room for room, others in left.items() if not others & set(left)]
        assert free, f"a circle among {set(left)}"
        for room in free:
            del left[room]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("import skipcache.benchmarks.peers.run", "skipcache.benchmarks.peers.run"),
        ("from skipcache.benchmarks import peers", "skipcache.benchmarks.peers"),
        ("from skipcache.benchmarks.peers import run as x", "skipcache.benchmarks.peers.run"),
        ("from ..peers.run import run_peers", "skipcache.benchmarks.peers.run"),
        ("from .. import peers", "skipcache.benchmarks.peers"),
        ("from . import option", "skipcache.benchmarks.options.option"),
        ("importlib.import_module(f'skipcache.benchmarks.peers.{x}')", "skipcache.benchmarks.peers"),
    ],
)
def test_an_import_is_known_by_what_it_means(line, expected):
    ((origin, name),) = imports(line, "skipcache.benchmarks.options.bench")
    assert expected in (origin, f"{origin}.{name}")


def test_only_public_names_of_skipcache_are_used():
    for path in FILES:
        for origin, name in imports(path.read_text(), module_of(path), path.name == "__init__.py"):
            if origin == "skipcache" or origin.startswith("skipcache."):
                ours = origin.startswith(PACKAGE) or f"{origin}.{name}" == PACKAGE
                assert ours or (origin == "skipcache" and name in (None, *PUBLIC)), f"{path}: {origin}, {name}"


def test_rooms_and_files_are_small():
    for folder in {path.parent for path in FILES}:
        modules = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(modules) <= 12, f"{folder.name}: {len(modules)} modules"
    for path in FILES:
        assert len(path.read_text().splitlines()) <= 250, path


def test_the_wheel_has_every_room():
    config = configparser.ConfigParser()
    config.read(ROOT.parent / "setup.cfg")
    packages = set(config["options"]["packages"].split())
    assert {module_of(path) for path in FILES if path.name == "__init__.py"} <= packages


def test_every_room_says_what_it_is():
    for path in FILES:
        if path.name == "__init__.py":
            said = ast.get_docstring(ast.parse(path.read_text()))
            assert said and len(said.splitlines()) <= 15, path

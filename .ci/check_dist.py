"""`make dist`: the wheel has one top-level package with the weights in it, and imports without the checkout."""

import subprocess
import sys
import tempfile
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

CODE = """
import skipcache, skipcache.adapters.dit, skipcache.benchmarks.cli.main
from pathlib import Path
assert Path(skipcache.__file__).is_relative_to({folder!r}), skipcache.__file__
"""


def main(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    (_,) = dist.glob("*.tar.gz")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"skipcache"}, f"expected one top-level package, got {sorted(tops)}"
    weights = {path.name for path in Path("benchmarks/weights").glob("*.safetensors")}
    packed = {name.rpartition("/")[2] for name in names if name.startswith("skipcache/benchmarks/weights/")}
    assert weights and weights <= packed, f"expected all weights in the wheel, missing {sorted(weights - packed)}"
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=False)
        python = Path(folder) / "bin" / "python"
        site = Path(folder) / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel)]
        subprocess.run(command, check=True)
        (torch,) = find_spec("torch").submodule_search_locations  # it and the rest stand after the wheel
        (site / "zz_dependencies.pth").write_text(f"{Path(torch).parent}\n")
        subprocess.run([python, "-c", CODE.format(folder=folder)], check=True, cwd=folder)
    print(f"{wheel.name}: one package, {len(weights)} files of weights, imports on its own")


if __name__ == "__main__":
    main(Path("dist"))

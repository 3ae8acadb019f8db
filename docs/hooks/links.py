"""Asks for every address in the docs, the notebooks and the code. Run by `make links`; it needs a network."""

import re
import sys
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[2]
ADDRESS = re.compile(r"https?://[^\s)>\"'`\\,\]]+[^\s)>\"'`\\,\].;:]")
BROWSER = {"User-Agent": "Mozilla/5.0 (links of skipcache's docs)"}


def sources():
    """The files whose addresses are looked at."""
    yield from (ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff"))
    for folder, kinds in (("docs", ("*.md",)), ("examples", ("*.ipynb", "*.md", "*.py")), ("skipcache", ("*.py",))):
        for kind in kinds:
            yield from sorted((ROOT / folder).rglob(kind))


def addresses():
    """Each address, and the first file that names it."""
    found = {}
    for path in sources():
        for address in ADDRESS.findall(path.read_text()):
            found.setdefault(address, path.relative_to(ROOT))
    return found


def problem(address):
    """Why the address does not lead anywhere, or None."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=BROWSER), timeout=20):
            return None
    except (urllib.error.URLError, TimeoutError) as error:
        return str(error)


def main():
    broken = {}
    for address, path in addresses().items():
        why = problem(address)
        print(f"{'broken' if why else 'found '} {address}")
        if why:
            broken[address] = f"{path}: {address}: {why}"
    print("\n".join(broken.values()), file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

"""README, CONTRIBUTING and CHANGELOG as pages of the site. Links between them and docs/ work in both places."""

import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
PAGES = {"README.md": "readme.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
PLAIN = ("CITATION.cff", "LICENSE", "NOTICE")  # they are shown as they are
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
FENCE = re.compile(r"(^```.*?^```\s*?$)", re.MULTILINE | re.DOTALL)


def on_files(files, config):
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=linked(page, (ROOT / source).read_text())))
    for name in PLAIN:
        files.append(File.generated(config, name, content=(ROOT / name).read_text()))
    return files


def on_page_markdown(markdown, page, config, files):
    return markdown if page.file.src_uri in PAGES.values() else linked(page.file.src_uri, markdown)


def linked(page, text):
    """The text with links as they are on the site, where what lies at the root of the repository lies in docs/."""
    parts = FENCE.split(text)
    up = "../" * page.count("/")
    return "".join(part if part.startswith("```") else LINK.sub(lambda m: _link(page, up, m), part) for part in parts)


def _link(page, up, match):
    before, path, anchor, after = match.groups()
    if re.match(r"\w+:", path):
        return match.group(0)
    if page in PAGES.values():
        inside = path.removeprefix("docs/")
    elif path.startswith(up + "../"):
        inside = path.removeprefix(up + "../")
    else:
        return match.group(0)
    inside = PAGES.get(inside, re.sub(r"^examples/(\w+)\.ipynb$", r"notebooks/\1.md", inside))
    return f"{before}{up}{inside}{anchor or ''}{after}"

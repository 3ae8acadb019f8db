"""README, CONTRIBUTING and CHANGELOG as pages of the site. Links between them and docs/ work in both places."""

import posixpath
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
    """The text with links as they are on the site: from files of the repository to pages, relative to `page`."""
    parts = FENCE.split(text)
    return "".join(part if part.startswith("```") else LINK.sub(lambda m: _link(page, m), part) for part in parts)


def _link(page, match):
    before, path, anchor, after = match.groups()
    if re.match(r"\w+:", path):
        return match.group(0)
    target = _on_the_site(posixpath.normpath(posixpath.join(_folder(page), path)))
    return f"{before}{posixpath.relpath(target, posixpath.dirname(page) or '.')}{anchor or ''}{after}"


def _folder(page):
    """Where the file that the page was made of lies in the repository."""
    if page in PAGES.values():
        return ""
    if page.startswith("notebooks/"):
        return "examples"
    return posixpath.join("docs", posixpath.dirname(page))


def _on_the_site(path):
    """The page, or the file beside the pages, of a file of the repository."""
    if path.startswith("examples/"):
        return f"notebooks/{path.removeprefix('examples/').replace('.ipynb', '.md')}"
    return PAGES.get(path, path.removeprefix("docs/"))

"""The notebooks of examples/ as pages of the site, with the outputs that they were saved with. Nothing is run."""

import base64
from pathlib import Path

import nbformat
from mkdocs.structure.files import File

EXAMPLES = Path(__file__).parents[2] / "examples"


def on_files(files, config):
    for path in sorted(EXAMPLES.glob("*.ipynb")):
        text, pictures = page(path)
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=text))
        for name, data in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=data))
    return files


def page(path):
    """A notebook as Markdown, and its pictures by file name."""
    parts, pictures = [], {}
    for number, cell in enumerate(nbformat.read(path, as_version=4).cells):
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for place, output in enumerate(cell.outputs):
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{path.stem}-{number}-{place}.png"
                pictures[name] = base64.b64decode(data["image/png"])
                parts.append(f"![what the cell above draws]({name})")
            else:
                parts.append(f"```text\n{(output.get('text') or data['text/plain']).rstrip()}\n```")
    parts.append(f"This page is `examples/{path.name}`. Run it with `jupyter`, or in an editor that opens notebooks.")
    return "\n\n".join(parts) + "\n", pictures

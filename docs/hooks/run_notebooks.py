"""Runs the notebooks that are named, and saves their outputs in them. Run by `make notebooks`."""

import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

STREAM = "stream"


def executed(path):
    """The notebook at `path` after a run, without times and without what is said on stderr."""
    notebook = nbformat.read(path, as_version=4)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # small models gain nothing from more
    NotebookClient(notebook, timeout=600, kernel_name="python3", record_timing=False).execute(cwd=str(path.parent))
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if not (o.output_type == STREAM and o.name == "stderr")]
    return notebook


def main(paths):
    for path in map(Path, paths):
        notebook = executed(path)
        notebook.metadata = {key: notebook.metadata[key] for key in ("kernelspec", "language_info")}
        notebook.metadata["language_info"] = {"name": "python"}
        nbformat.write(notebook, path)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Docstrings as mkdocstrings reads them: an example is code, and arguments that share a line have one each."""

import re
import textwrap

from griffe import Extension

EXAMPLE = re.compile(r"^Example:\n((?:[ ]+.*\n?|\n)+)", re.MULTILINE)
SHARED = re.compile(r"^    (\w+(?:, \w+)+):((?: .*)?\n?(?:^ {5,}.*\n?)*)", re.MULTILINE)
STARRED = {"args": "*args", "kwargs": "**kwargs", "settings": "**settings"}


def rewritten(docstring):
    return SHARED.sub(_one_each, EXAMPLE.sub(_fenced, docstring))


def _fenced(found):
    return f"```python\n{textwrap.dedent(found.group(1)).strip()}\n```\n"


def _one_each(found):
    names, text = found.groups()
    return "".join(f"    {STARRED.get(name, name)}:{text.rstrip()}\n" for name in names.split(", "))


class Examples(Extension):
    def on_object(self, *, obj, **kwargs):
        if obj.docstring is not None:
            obj.docstring.value = rewritten(obj.docstring.value)

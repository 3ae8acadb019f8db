"""The code blocks of a page, by heading."""

import re

BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def sections(path):
    """Heading -> the Python blocks below it; "" for those before the first one."""
    parts = re.split(r"^##+ (.*)$", path.read_text(), flags=re.MULTILINE)
    return {heading: BLOCK.findall(body) for heading, body in zip(["", *parts[1::2]], parts[::2])}

"""The examples of ``docs/neighbours.md``, one by one, in its order."""

import re
from pathlib import Path

_PAGE = (Path(__file__).parents[2] / "docs" / "neighbours.md").read_text()


def examples(section: str) -> list[str]:
    """Return the Python blocks of one section of the page."""
    (found,) = re.findall(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", _PAGE, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"```python\n(.*?)```", found, flags=re.DOTALL)

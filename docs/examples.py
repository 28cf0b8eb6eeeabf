"""Examples in docstrings (`>>> `) as code on the pages that are made of them (`make docs`)."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension

EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)


class Examples(Extension):
    """Puts a fence around each."""

    def on_object(self, *, obj: Any, **kwargs: Any) -> None:
        """Called by Griffe for everything that it has read."""
        if obj.docstring and "```" not in obj.docstring.value:
            obj.docstring.value = EXAMPLE.sub(lambda example: f"```pycon\n{example[0]}\n```", obj.docstring.value)

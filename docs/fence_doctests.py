"""For the docs build: show doctests as code. In Markdown, a bare `>>>` would be a quotation."""

import re
from typing import Any

import griffe

# From a prompt to the next blank line: the code and its printed answer.
DOCTEST = re.compile(r"^>>> .*?(?=\n[ \t]*\n|\Z)", re.MULTILINE | re.DOTALL)


class FenceDoctests(griffe.Extension):
    """Fence each doctest that stands in a docstring outside an `Examples:` section."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring in place, once, after it is read."""
        if obj.docstring and "```" not in obj.docstring.value:
            obj.docstring.value = DOCTEST.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)

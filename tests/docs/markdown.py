"""Markdown as the generated pages need it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell(text) for text in line)} |" for line in lines)


def cell(text: str) -> str:
    """On one line, and no bar of it ends the cell."""
    return " ".join(text.split()).replace("|", "\\|")


def code(text: object) -> str:
    return f"`{text}`"


def fenced(language: str, text: str) -> str:
    return f"```{language}\n{text.strip()}\n```"


def paragraphs(*parts: str) -> str:
    """All that is there, with a line between, ended by one."""
    return "\n\n".join(_wrapped(part.strip()) for part in parts if part.strip()) + "\n"


def _wrapped(text: str) -> str:
    """Prose on lines as long as those of pages that are written by hand."""
    if "\n" in text or text.startswith(("|", "#")):
        return text
    return textwrap.fill(text, 130, break_long_words=False, break_on_hyphens=False)

"""Text of callers, fit for logs and terminals."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text on one line, with every character that cannot be seen written as Python writes it.

    So it starts no new line and gives a terminal no order.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)

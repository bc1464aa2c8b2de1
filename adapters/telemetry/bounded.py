"""Values of a label that stay few, whatever callers send."""

from __future__ import annotations

from collections.abc import Callable

OTHER = "other"
NONE = "none"
"""In place of a queue where there is none."""


class Bounded:
    """What is configured keeps its name, and so do the first others that come; the rest is `other`."""

    def __init__(self, known: Callable[[str], bool], others: int = 0) -> None:
        """
        Args:
            known: whether this is configured, at this moment. Asked on any thread.
            others: how many may have their names besides.
        """
        self._known = known
        self._others = others
        self._labels: dict[str | None, str] = {None: NONE}

    def __call__(self, name: str | None) -> str:
        return self._labels.get(name) or self._admitted(name or NONE)

    def _admitted(self, name: str) -> str:
        if not self._known(name):
            if self._others <= 0:
                return OTHER  # not kept: there may be any number of them
            self._others -= 1
        self._labels[name] = name
        return name

"""The pages in docs/ that the code decides: what they must say now, and how they are written anew.

A further one is a function that returns its text, and its line in `GENERATED`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.docs import calls, commands, error_codes, metrics

DOCS = Path(__file__).parents[2] / "docs"

GENERATED: dict[str, Callable[[], str]] = {
    "errors.md": error_codes.page,
    "metrics.md": metrics.page,
    "reference-api.md": calls.page,
    "reference-cli.md": commands.page,
}


def write(folder: Path = DOCS) -> list[str]:
    """Write what has changed, and name it."""
    changed = {
        name: page for name, page in ((name, made()) for name, made in GENERATED.items()) if says(folder, name) != page
    }
    for name, page in changed.items():
        (folder / name).write_text(page, encoding="utf-8")
    return list(changed)


def says(folder: Path, name: str) -> str | None:
    """What the page says, or None where it is not there yet."""
    path = folder / name
    return path.read_text(encoding="utf-8") if path.exists() else None

"""The page on security names the limits that are in force."""

from __future__ import annotations

from pathlib import Path

from app.connection import MOST_FIELDS, MOST_HEAD, MOST_PIPELINED, PATIENCE
from app.server import KEEP_ALIVE, MOST_CONNECTIONS, SPARE_FILES
from app.wire.body import ENVELOPE_BYTES

PAGE = (Path(__file__).parents[2] / "docs/security.md").read_text()


def limit(of: str) -> str:
    """The second cell of the row that begins so."""
    [row] = [line for line in PAGE.splitlines() if line.startswith(f"| {of}")]
    return row.split("|")[2].strip()


def test_the_limits_that_the_page_tells_are_those_in_force():
    assert limit("line and fields") == f"{MOST_HEAD >> 10} KiB, {MOST_FIELDS} fields"
    assert limit("a whole head") == f"{PATIENCE.head:g} s"
    assert limit("a body |") == f"{PATIENCE.least >> 10} KiB in {PATIENCE.body:g} s, or its end"
    assert limit("taking the answer") == f"{PATIENCE.least >> 10} KiB in {PATIENCE.answer:g} s, or its end"
    assert f"and {ENVELOPE_BYTES >> 10} KiB around it" in limit("a body's size")
    assert limit("idle") == f"{KEEP_ALIVE} s"
    assert limit("requests that wait") == str(MOST_PIPELINED)
    assert limit("connections of a process").startswith(f"{MOST_CONNECTIONS:,}, or {SPARE_FILES} fewer")

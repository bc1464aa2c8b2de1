"""What the page on moving says of calls and variables, held to the service."""

from __future__ import annotations

import re

from app.settings import from_env
from tests.docs.test_documents import DESCRIPTION, ROOT, Recorded

PAGE = (ROOT / "docs/moving.md").read_text()


def test_every_call_that_the_page_names_is_there():
    named = set(re.findall(r"`(GET|POST|DELETE) (/[^`?]+)`", PAGE))
    there = {
        (method.upper(), re.sub(r"{\w+_id}", "{id}", path))
        for path, methods in DESCRIPTION["paths"].items()
        for method in methods
    }
    assert named <= there


def test_every_variable_that_the_page_names_is_read():
    environment = Recorded()
    from_env(environment)
    rows = re.findall(r"^\| (`[A-Z].*?) \|", PAGE, re.MULTILINE)
    assert set(re.findall(r"`([A-Z_]{3,})`", " ".join(rows))) <= environment.asked

"""The page on architecture names files that are there."""

from __future__ import annotations

import re

from tests.docs.test_documents import ROOT

PAGE = (ROOT / "docs/architecture.md").read_text()
FOLDERS = ("actors", "adapters", "app", "docs", "domain", "migrations", "tests")
FILES = {path.name for folder in FOLDERS for path in (ROOT / folder).rglob("*.*")}


def test_every_file_that_the_page_on_architecture_names_is_there():
    named = re.findall(r"`((?:[\w.-]+/)*[\w.-]+(?:\.(?:py|sql|md|toml)|/))`", PAGE)
    assert len(named) > 40
    missing = [name for name in named if not ((ROOT / name).exists() or name in FILES)]
    assert not missing

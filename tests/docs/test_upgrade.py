"""What the page says of revisions, held to them."""

from __future__ import annotations

import re

from adapters.postgres.migrate import LOCK_TIMEOUT, _newest, _scripts_newest_first
from app.bootstrap import MIGRATION_PATIENCE
from tests.docs.test_documents import ROOT

PAGE = (ROOT / "docs/upgrade.md").read_text()


def test_the_page_says_what_the_way_back_from_each_revision_takes_along():
    table = re.findall(r"^\| (\d{4}) \| (.*) \|$", PAGE, re.M)
    assert table == [(script.revision, script.module.loses) for script in _scripts_newest_first()]


def test_the_page_says_how_long_a_migration_waits():
    table = LOCK_TIMEOUT.removesuffix("s")
    assert f"at most {table} s for a table that is in use, tries again for {MIGRATION_PATIENCE:g} s" in PAGE


def test_the_former_revision_is_the_one_that_the_commands_go_back_to():
    [newest, former, *_] = _scripts_newest_first()
    assert newest.revision == _newest()
    assert f"ai-service migrate --to {former.revision} --yes" in PAGE

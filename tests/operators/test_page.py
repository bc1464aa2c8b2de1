"""The page on RabbitMQ and `deploy/rabbitmq` say what the tests do."""

from __future__ import annotations

import re
from pathlib import Path

from tests.operators import test_rabbitmq
from tests.operators.conftest import LINKS, VHOST, configured, shipped

PAGE = (Path(__file__).parents[2] / "docs" / "rabbitmq.md").read_text()


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(title: str) -> list[list[str]]:
    """The cells of a section's tables."""
    lines = [line for line in section(title).splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    return [re.split(r" (?<!\\)\| ", line.strip("| ")) for line in lines]


def test_every_action_names_its_test_and_every_test_stands_on_the_page():
    tests = {name for name in vars(test_rabbitmq) if name.startswith("test_")}
    actions = rows("What you may do, and what follows")[1:]
    named = [re.fullmatch(r"`(test_\w+)`", row[-1]) for row in actions]
    assert all(named), "an action without a test"
    assert len(actions) >= 15
    assert set(re.findall(r"`(test_\w+)`", PAGE)) == tests


def test_every_connection_is_on_the_page():
    shown = section("What lies in it")
    for link in {link for links in LINKS.values() for link in links} - {"tickets of gpu.speech"}:
        assert f": {link}`" in shown


def test_the_rights_are_those_that_are_shipped():
    shown = {
        row[0]: row[1].strip("`").replace("\\|", "|")
        for row in rows("Set it up")
        if row[0] in shipped("permissions.json")
    }
    assert shown == shipped("permissions.json")


def test_the_shipped_definitions_fit_together():
    definitions, permissions = shipped("definitions.json"), shipped("permissions.json")
    assert [vhost["name"] for vhost in definitions["vhosts"]] == [VHOST]
    [policy] = definitions["policies"]
    for queue in definitions["queues"]:
        assert re.search(policy["pattern"], queue["name"])
        assert re.search(permissions["read"], queue["name"])
    for exchange in definitions["exchanges"]:
        assert not re.search(policy["pattern"], exchange["name"])
        assert all(re.search(expression, exchange["name"]) for expression in permissions.values())
    assert configured()["consumer_timeout"] == "86400000"

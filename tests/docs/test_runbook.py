"""The runbook's commands exist, and PostgreSQL answers its questions."""

from __future__ import annotations

import re
import shlex
from typing import Any

import asyncpg
import pytest
from typer.main import get_command

from app.cli import cli
from tests.deploy.catalogue import unknown
from tests.docs.test_documents import ROOT, blocks, commands

PAGES = ("docs/runbook.md", "docs/gpu-pools.md")
PROGRAM = "ai-service"


def said() -> list[list[str]]:
    """Every command of ours that the pages show, as its words."""
    lines = "".join("".join(blocks(page, "bash")) for page in PAGES).splitlines()
    return [words[1:] for words in (shlex.split(line, comments=True) for line in lines) if words[:1] == [PROGRAM]]


@pytest.mark.parametrize("words", said(), ids=" ".join)
def test_a_command_that_is_shown_is_understood(words: list[str]):
    command: Any = get_command(cli)
    context = command.make_context(PROGRAM, [words[0]])
    while words and hasattr(command, "get_command"):
        name, *words = words
        command = command.get_command(context, name)
        assert command, name
    command.make_context(PROGRAM, words)


def test_the_runbook_has_commands():
    assert len(said()) > 15
    assert len(commands("docs/runbook.md", "curl")) > 2


def test_every_metric_of_the_runbook_is_exported():
    asked = [*blocks("docs/runbook.md", "promql"), *re.findall("`([^`]+)`", (ROOT / "docs/runbook.md").read_text())]
    assert [trouble for expression in asked for trouble in unknown(expression)] == []


async def test_postgresql_answers_the_runbooks_questions(database: str):
    questions = "".join(blocks("docs/runbook.md", "sql")).split(";")
    connection = await asyncpg.connect(database)
    try:
        for question in filter(str.strip, questions):
            await connection.fetch(question)
    finally:
        await connection.close()

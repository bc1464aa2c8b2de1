"""How SQL is written here: one statement per file, each with a first line that says when it runs; none put together."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import adapters.postgres

HERE = Path(adapters.postgres.__file__).parent
FILES = sorted(HERE.glob("*/*.sql"))
MODULES = sorted(HERE.glob("*.py"))

SQL = re.compile(r"\b(SELECT|INSERT INTO|UPDATE|DELETE FROM|CREATE|ALTER|DROP|SET|LOCK)\b.*")


def test_there_are_files_to_look_at():
    assert len(FILES) > 15


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_statement_says_in_its_first_line_when_it_runs(file: Path):
    assert re.match(r"-- \w.{10,}\n", file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", [file for file in FILES if file.parent.name == "queries"], ids=lambda file: file.stem)
def test_a_file_holds_one_statement_and_names_all_its_parameters(file: Path):
    text = file.read_text(encoding="utf-8")
    comment, statement = "\n".join(re.findall(r"^--.*", text, re.M)), re.sub(r"--.*", "", text)
    assert ";" not in statement
    assert set(re.findall(r"\$\d+", statement)) <= set(re.findall(r"\$\d+", comment))


def test_every_query_is_used_and_every_used_one_is_there():
    code = "".join(module.read_text(encoding="utf-8") for module in MODULES)
    used = set(re.findall(r"""\b(?:query|_fetch)\(\s*"(\w+)\"""", code))
    assert used == {file.stem for file in FILES if file.parent.name == "queries"}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.stem)
def test_no_statement_is_put_together_from_strings(module: Path):
    tree = ast.parse(module.read_text(encoding="utf-8"))
    put_together = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        and any(isinstance(part, ast.Constant) and SQL.search(str(part.value)) for part in node.values)
    ]
    # Constants of that module.
    allowed = {"f'SELECT pg_advisory_xact_lock({LOCK})'", "f\"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'\""}
    assert set(put_together) <= allowed

"""What docs/contracts says is what the code does, and nothing that it ever said is taken back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from domain.results import RESULT_SCHEMAS, check_result
from tests.contracts.__main__ import ANYWAY, main
from tests.contracts.documents import FOLDER, HOW_TO_VERSION, broken, generated, published, write

DOCUMENTS = generated()
SUBMIT = ("paths", "/api/v1/jobs", "post")


def document(path: str) -> Any:
    return json.loads(DOCUMENTS[path])


def test_nothing_that_was_published_is_taken_back():
    found = broken(published(FOLDER), DOCUMENTS)
    assert not found, "\n  ".join(["This breaks those who rely on docs/contracts:", *found]) + f"\n\n{HOW_TO_VERSION}"


def test_what_is_published_is_what_the_code_does():
    old = published(FOLDER)
    stale = sorted(path for path in old.keys() | DOCUMENTS.keys() if old.get(path) != DOCUMENTS.get(path))
    assert not stale, f"run `make contracts`: {', '.join(stale)}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that says something else in its description of the API, and has an example of something gone."""
    write({**DOCUMENTS, "examples/gone.json": b"{}"}, tmp_path)
    return tmp_path


def change(folder: Path, path: str, *steps: str, to: Any) -> None:
    changed = node = json.loads((folder / path).read_bytes())
    for step in steps[:-1]:
        node = node[step]
    node[steps[-1]] = to
    (folder / path).write_text(json.dumps(changed))


def test_documents_are_written_anew(folder: Path, capsys: pytest.CaptureFixture[str]):
    change(folder, "openapi.json", *SUBMIT, "summary", to="Another word for it")

    assert main([], folder) == 0
    assert capsys.readouterr().out.split() == ["examples/gone.json", "openapi.json"]
    assert published(folder) == DOCUMENTS


def test_what_would_break_callers_is_not_written(folder: Path, capsys: pytest.CaptureFixture[str]):
    change(folder, "openapi.json", *SUBMIT, "responses", "202", to={"description": "Another promise."})
    change(folder, "schemas/ai.chat_result.v1.json", "properties", "mood", to={"type": "string"})
    before = published(folder)

    assert main([], folder) == 1
    told = capsys.readouterr().out
    assert "POST /api/v1/jobs: status 202 is gone" in told
    assert "ai.chat_result.v1/mood, in answers: it is gone" in told
    assert HOW_TO_VERSION in told
    assert published(folder) == before


def test_a_schema_name_stays_for_ever(folder: Path, capsys: pytest.CaptureFixture[str]):
    (folder / "schemas/ai.chat_result.v0.json").write_text("{}")

    assert main([], folder) == 1
    assert "schemas/ai.chat_result.v0.json is gone" in capsys.readouterr().out


def test_what_no_release_has_promised_can_be_taken_back(folder: Path):
    change(folder, "openapi.json", *SUBMIT, "responses", "202", to={"description": "Another promise."})

    assert main([ANYWAY], folder) == 0
    assert published(folder) == DOCUMENTS


@pytest.mark.parametrize("version", RESULT_SCHEMAS)
def test_the_example_of_a_result_fits_its_schema_and_our_own_check(version: str):
    schema, example = document(f"schemas/{version}.json"), document(f"examples/{version}.json")

    jsonschema_rs.validator_for(schema).validate(example)
    check_result(json.dumps(example).encode())


@pytest.mark.parametrize("version", RESULT_SCHEMAS)
def test_a_schema_asks_for_its_own_name_and_lets_new_fields_come(version: str):
    schema, example = document(f"schemas/{version}.json"), document(f"examples/{version}.json")

    assert jsonschema_rs.is_valid(schema, {**example, "new_in_2030": 1})
    assert not jsonschema_rs.is_valid(schema, {**example, "schema_version": "ai.other_result.v1"})
    assert not jsonschema_rs.is_valid(schema, {key: value for key, value in example.items() if key != "schema_version"})


def test_the_command_prints_the_description_and_needs_nothing(tmp_path: Path):
    command = [str(Path(sys.executable).parent / "ai-service"), "openapi"]
    printed = subprocess.run(command, cwd=tmp_path, env={}, capture_output=True, timeout=60, check=True)

    assert printed.stdout == DOCUMENTS["openapi.json"]
    assert not list(tmp_path.iterdir())


def test_patterns_can_be_read_by_every_language():
    assert not [path for path, content in DOCUMENTS.items() if b"(?" in content]

"""The file of tokens: how it reads, and what is said of one that cannot be used."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from app import keyfile
from app.keyfile import digest_of
from domain.access import Caller, Right
from domain.errors import StartupError
from domain.job import Priority

TOKEN = "hunter2-hunter2"
OTHER = "sk_7.5~x/+="


def stored(folder: Path, content: object, suffix: str = ".json") -> Path:
    """A file of this text, or of this document as JSON."""
    path = folder / f"tokens{suffix}"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def callers(path: Path) -> dict[str, Caller]:
    grants = keyfile.read(path)
    return {
        token: grants[digest].caller() for token in (TOKEN, OTHER) if (digest := digest_of(token.encode())) in grants
    }


def refusal(path: Path) -> str:
    """The line about a file that cannot be used, which must hold nothing of it."""
    with pytest.raises(StartupError) as refused:
        keyfile.read(path)
    line = str(refused.value)
    assert re.fullmatch(rf"AI_SERVICE_TOKENS: '{path}' cannot be used; expected [^\n]+\.", line)
    assert "hunter2" not in line
    return line.partition("; expected ")[2].removesuffix(".")


def test_in_short_a_token_stands_for_an_owner_who_submits_and_reads(tmp_path: Path):
    path = stored(tmp_path, {TOKEN: "telephony"})
    assert callers(path) == {
        TOKEN: Caller("telephony", frozenset({Right.SUBMIT, Right.READ}), Priority.NORMAL, weight=1.0)
    }
    [grant] = keyfile.read(path).values()
    assert grant.rate is None


def test_in_full_a_token_has_rights_a_priority_a_weight_and_a_rate(tmp_path: Path):
    given = {"owner": "gpu/pool-1", "rights": ["work", "read"], "priority": "low", "weight": 2, "rate": 0.5}
    path = stored(tmp_path, {TOKEN: given})
    assert callers(path) == {TOKEN: Caller("gpu/pool-1", frozenset({Right.WORK, Right.READ}), Priority.LOW, weight=2.0)}
    [grant] = keyfile.read(path).values()
    assert grant.rate == 0.5


def test_an_asterisk_is_all_owners(tmp_path: Path):
    path = stored(tmp_path, {TOKEN: "*", OTHER: {"owner": "*", "rights": ["operate"]}})
    assert [caller.owner for caller in callers(path).values()] == [None, None]


def test_toml_reads_the_same(tmp_path: Path):
    text = f'{TOKEN} = "telephony"\n\n["{OTHER}"]\nowner = "*"\nrights = ["submit", "operate"]\nweight = 3\n'
    same = {TOKEN: "telephony", OTHER: {"owner": "*", "rights": ["submit", "operate"], "weight": 3}}
    assert keyfile.read(stored(tmp_path, text, ".TOML")) == keyfile.read(stored(tmp_path, same))


def test_a_byte_order_mark_does_no_harm(tmp_path: Path):
    assert callers(stored(tmp_path, f'\ufeff{{"{TOKEN}": "telephony"}}'))


ENTRY = "token 1 to be an owner's name, or a table of owner and any of rights, priority, weight and rate"
NAME = "owner of token 1 to be a letter or digit, then up to 99 letters, digits or ._:/@+-; or * for all owners"
WEIGHT = "weight of token 1 to be a number from 0.001 to 1000000"
RATE = "rate of token 1 to be requests a second, a number from 0.001 to 1000000"
RIGHTS = "rights of token 1 to be a list of at least one of submit, work, read, operate"
PRIORITY = "priority of token 1 to be high, normal or low"

BAD_ENTRIES: list[tuple[Any, str]] = [
    (None, ENTRY),
    (7, ENTRY),
    (["hunter2"], ENTRY),
    ({}, ENTRY),
    ({"rights": ["read"]}, ENTRY),
    ({"owner": "telephony", "hunter2": "telephony"}, ENTRY),
    ("", NAME),
    ("hunter2 hunter2", NAME),
    ("hunter2\n", NAME),
    ("-hunter2", NAME),
    ("a" * 101, NAME),
    ("**", NAME),
    ({"owner": None}, NAME),
    ({"owner": ["hunter2"]}, NAME),
    ({"owner": "x", "rights": []}, RIGHTS),
    ({"owner": "x", "rights": "read"}, RIGHTS),
    ({"owner": "x", "rights": ["read", "hunter2"]}, RIGHTS),
    ({"owner": "x", "priority": "hunter2"}, PRIORITY),
    ({"owner": "x", "priority": 1}, PRIORITY),
    ({"owner": "x", "weight": 0}, WEIGHT),
    ({"owner": "x", "weight": -1}, WEIGHT),
    ({"owner": "x", "weight": "2"}, WEIGHT),
    ({"owner": "x", "weight": True}, WEIGHT),
    ({"owner": "x", "weight": float("nan")}, WEIGHT),
    ({"owner": "x", "rate": 0}, RATE),
    ({"owner": "x", "rate": float("inf")}, RATE),
    ({"owner": "x", "rate": 10**400}, RATE),
]


@pytest.mark.parametrize(("entry", "expected"), BAD_ENTRIES)
def test_of_a_bad_entry_its_place_and_what_is_expected_are_told(entry: Any, expected: str, tmp_path: Path):
    assert refusal(stored(tmp_path, {TOKEN: entry})) == expected


def test_the_place_of_a_bad_entry_is_counted(tmp_path: Path):
    path = stored(tmp_path, {TOKEN: "telephony", OTHER: {"owner": "x", "weight": 0}})
    assert refusal(path).startswith("weight of token 2 to be ")


@pytest.mark.parametrize("token", ["", "hunter2", "hunter2 hunter2", "hunter2\thunter2", "hunter2\n2", "hunter2-é"])
def test_a_token_that_is_short_or_that_no_header_carries_is_refused(token: str, tmp_path: Path):
    expected = refusal(stored(tmp_path, {token: "telephony"}))
    assert expected.startswith("token 1 to be at least 8 characters of ASCII without spaces: `openssl rand -hex 32`")


BAD_FILES = [
    (".json", "", "valid JSON (line 1, column 1)"),
    (".json", '{\n  "hunter2-hunter2": telephony\n}', "valid JSON (line 2, column 22)"),
    (".json", '{"hunter2-hunter2": ' + "9" * 5000 + "}", "valid JSON"),
    (".json", "[" * 100_000, "valid JSON"),
    (".json", "{}", "a table of tokens, at least one"),
    (".json", '["hunter2-hunter2"]', "a table of tokens, at least one"),
    (".json", '"hunter2-hunter2"', "a table of tokens, at least one"),
    (".json", f'{{"{TOKEN}": "x", "{TOKEN}": "y"}}', "every key once in its table"),
    (".json", f'{{"{TOKEN}": {{"owner": "x", "owner": "y"}}}}', "every key once in its table"),
    (".json", f'{{"tokens-of-mine": {{"{TOKEN}": "telephony"}}}}', ENTRY),
    (".toml", "", "a table of tokens, at least one"),
    (".toml", f'{TOKEN} = "x"\n{TOKEN} = "y"', "valid TOML with every key once (end of document)"),
    (".toml", f'[{TOKEN}]\nowner = "x"\n[{TOKEN}]', "valid TOML with every key once (line 3, column 17)"),
    (".toml", f"{TOKEN} = telephony", "valid TOML with every key once (line 1, column 19)"),
    (".toml", f'{TOKEN} = "', "valid TOML with every key once (end of document)"),
    (".toml", f'long-enough.{TOKEN} = "x"', ENTRY),
    (".yaml", f"{TOKEN}: telephony", "a file whose name ends in .json or .toml"),
    ("", TOKEN, "a file whose name ends in .json or .toml"),
]


@pytest.mark.parametrize(("suffix", "text", "expected"), BAD_FILES)
def test_of_a_bad_file_its_place_and_what_is_expected_are_told(suffix: str, text: str, expected: str, tmp_path: Path):
    assert refusal(stored(tmp_path, text, suffix)) == expected


def test_a_file_that_is_not_text_is_refused(tmp_path: Path):
    path = tmp_path / "tokens.json"
    path.write_bytes(b'{"hunter2-\xff": "telephony"}')
    assert refusal(path) == "text in UTF-8"


def test_a_file_that_is_not_there_is_refused(tmp_path: Path):
    assert refusal(tmp_path / "tokens.json") == "a file that can be read (No such file or directory)"


def test_a_folder_is_refused(tmp_path: Path):
    (path := tmp_path / "tokens.json").mkdir()
    assert refusal(path) == "a file that can be read (Is a directory)"


def test_what_was_read_shows_no_token(tmp_path: Path):
    grants = keyfile.read(stored(tmp_path, {TOKEN: "telephony"}))
    assert "hunter2" not in f"{grants} {grants!r}"

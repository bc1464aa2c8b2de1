"""The keyring: which tokens are in force, when a changed file is, and how often each may be used."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.keyring import Keyring
from app.settings import from_env
from domain.access import ANYBODY, Caller
from domain.errors import RateLimited, StartupError
from tests.fakes import FakeClock

OLD, NEW = "old-hunter2-token", "new-hunter2-token"


class Tokens:
    """A file of tokens, a keyring over it, and the clock that it looks at."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "tokens.json"
        self.clock = FakeClock()

    def write(self, content: object) -> None:
        """Put another file in its place, as whoever rotates tokens does."""
        beside = self.path.with_suffix(".new")
        beside.write_text(content if isinstance(content, str) else json.dumps(content))
        beside.replace(self.path)

    def keyring(self, token: str | None = None) -> Keyring:
        return Keyring(token, self.path, clock=self.clock.monotonic)

    def after(self, seconds: float) -> None:
        self.clock.advance(timedelta(seconds=seconds))


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    tokens = Tokens(tmp_path)
    tokens.write({OLD: "telephony"})
    return tokens


def owner(keyring: Keyring, token: str) -> str | None:
    """Whose token it is; None where it opens nothing."""
    caller = keyring.caller(token.encode())
    return caller.owner or "*" if caller else None


def test_without_any_token_the_api_is_open():
    assert Keyring().open
    assert Keyring().caller(b"") is None


def test_the_service_token_alone_has_all_rights_for_all_owners():
    keyring = Keyring("s3cret")
    assert not keyring.open
    assert keyring.caller(b"s3cret") == ANYBODY
    assert keyring.caller(b"s3cre") is None
    assert keyring.caller(b"") is None


def test_the_service_token_and_a_file_work_beside_each_other(tokens: Tokens):
    keyring = tokens.keyring("s3cret")
    assert (owner(keyring, "s3cret"), owner(keyring, OLD)) == ("*", "telephony")
    assert keyring.count == 2


def test_the_service_token_wins_over_its_namesake_in_the_file(tokens: Tokens):
    assert tokens.keyring(OLD).caller(OLD.encode()) == Caller()


def test_an_empty_service_token_is_none():
    assert Keyring.of(from_env({"AI_SERVICE_TOKEN": ""}).http).open


def test_a_file_alone_closes_the_api(tokens: Tokens):
    keyring = Keyring.of(from_env({"AI_SERVICE_TOKENS": str(tokens.path)}).http)
    assert not keyring.open
    assert owner(keyring, OLD) == "telephony"
    assert owner(keyring, NEW) is None


def test_a_file_that_cannot_be_used_makes_no_keyring(tokens: Tokens):
    tokens.write("{}")
    with pytest.raises(StartupError, match="AI_SERVICE_TOKENS"):
        tokens.keyring()


def test_a_changed_file_is_in_force_a_second_later(tokens: Tokens):
    keyring = tokens.keyring()
    tokens.write({NEW: "telephony"})

    tokens.after(0.9)
    assert (owner(keyring, OLD), owner(keyring, NEW)) == ("telephony", None)
    tokens.after(0.1)
    with capture_logs() as logs:
        assert (owner(keyring, OLD), owner(keyring, NEW)) == (None, "telephony")
    assert [(entry["event"], entry["tokens"]) for entry in logs] == [("tokens read again", 1)]


def test_a_file_that_is_changed_in_place_is_noticed(tokens: Tokens):
    keyring = tokens.keyring()
    tokens.path.write_text(json.dumps({NEW: "telephony"}))
    os.utime(tokens.path, (1, 1))
    tokens.after(1)
    assert owner(keyring, NEW) == "telephony"


def test_a_mounted_secret_that_is_swapped_by_its_link_is_noticed(tokens: Tokens, tmp_path: Path):
    for version, token in enumerate((OLD, NEW)):
        (tmp_path / f"v{version}").mkdir()
        (tmp_path / f"v{version}" / "tokens.json").write_text(json.dumps({token: "telephony"}))
    data = tmp_path / "data"
    data.symlink_to("v0")
    keyring = Keyring(tokens=data / "tokens.json", clock=tokens.clock.monotonic)

    (tmp_path / "next").symlink_to("v1")
    (tmp_path / "next").replace(data)
    tokens.after(1)
    assert (owner(keyring, OLD), owner(keyring, NEW)) == (None, "telephony")


def test_the_service_token_outlives_a_changed_file(tokens: Tokens):
    keyring = tokens.keyring("s3cret")
    tokens.write({NEW: "telephony"})
    tokens.after(1)
    assert owner(keyring, "s3cret") == "*"


@pytest.mark.parametrize("bad", ["", "{}", '{"hunter2": 1}', f'{{"{NEW}": {{"owner": "x", "rate": 0}}}}'])
def test_a_bad_version_is_logged_once_and_the_old_one_stays_in_force(bad: str, tokens: Tokens):
    keyring = tokens.keyring()
    tokens.write(bad)
    with capture_logs() as logs:
        for _ in range(3):
            tokens.after(1)
            assert (owner(keyring, OLD), owner(keyring, NEW)) == ("telephony", None)

    [refused] = logs
    assert (refused["event"], refused["log_level"]) == ("tokens refused", "error")
    assert refused["reason"].startswith(f"AI_SERVICE_TOKENS: '{tokens.path}' cannot be used; expected ")
    assert "hunter2" not in str(logs)


def test_a_mended_version_is_in_force_a_second_later(tokens: Tokens):
    keyring = tokens.keyring()
    tokens.write("{")
    tokens.after(1)
    assert owner(keyring, NEW) is None
    tokens.write({NEW: "telephony"})
    tokens.after(1)
    assert owner(keyring, NEW) == "telephony"


def test_a_vanished_file_is_logged_once_and_what_it_said_stays_in_force(tokens: Tokens):
    keyring = tokens.keyring()
    tokens.path.unlink()
    with capture_logs() as logs:
        for _ in range(3):
            tokens.after(1)
            assert owner(keyring, OLD) == "telephony"
    [refused] = logs
    assert "No such file" in refused["reason"]


def test_a_file_that_comes_back_is_read_again(tokens: Tokens):
    keyring = tokens.keyring()
    away = tokens.path.rename(tokens.path.with_suffix(".away"))
    tokens.after(1)
    assert owner(keyring, OLD) == "telephony"
    away.rename(tokens.path)
    tokens.after(1)
    with capture_logs() as logs:
        assert owner(keyring, OLD) == "telephony"
    assert [entry["event"] for entry in logs] == ["tokens read again"]


def test_a_file_that_stays_is_not_read_again(tokens: Tokens):
    keyring = tokens.keyring()
    with capture_logs() as logs:
        for _ in range(5):
            tokens.after(1)
            assert owner(keyring, OLD) == "telephony"
    assert logs == []


def limited(rate: float, **more: Any) -> dict[str, Any]:
    return {OLD: {"owner": "telephony", "rate": rate, **more}}


def let_in(keyring: Keyring, times: int) -> int:
    """How many of so many requests at once are let in."""
    done = 0
    for _ in range(times):
        try:
            keyring.caller(OLD.encode())
        except RateLimited:
            continue
        done += 1
    return done


@pytest.mark.parametrize(("rate", "at_once"), [(20, 20), (2.5, 2), (1, 1), (0.25, 1)])
def test_a_seconds_worth_may_come_at_once_and_at_least_one(rate: float, at_once: int, tokens: Tokens):
    tokens.write(limited(rate))
    assert let_in(tokens.keyring(), 50) == at_once


def test_a_token_without_a_rate_is_not_limited(tokens: Tokens):
    assert let_in(tokens.keyring(), 1000) == 1000


def test_the_clock_fills_the_bucket_and_never_over_its_size(tokens: Tokens):
    tokens.write(limited(10))
    keyring = tokens.keyring()
    assert let_in(keyring, 20) == 10
    tokens.after(0.5)
    assert let_in(keyring, 20) == 5
    tokens.after(3600)
    assert let_in(keyring, 20) == 10


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.7, 3, 7, 1000])
def test_who_waits_as_long_as_told_is_let_in_and_who_does_not_is_not(rate: float, tokens: Tokens):
    tokens.write(limited(rate))
    keyring = tokens.keyring()
    let_in(keyring, 1000)
    with pytest.raises(RateLimited) as early:
        keyring.caller(OLD.encode())
    wait = early.value.retry_after.total_seconds()

    tokens.after(wait * 0.99)
    assert let_in(keyring, 1) == 0
    tokens.after(wait * 0.01 + 0.000_002)  # the clock's own step, up and down
    assert let_in(keyring, 2) == 1


def test_one_token_over_its_rate_does_not_touch_another(tokens: Tokens):
    tokens.write(limited(1) | {NEW: {"owner": "beeline", "rate": 1}})
    keyring = tokens.keyring()
    assert let_in(keyring, 2) == 1
    assert owner(keyring, NEW) == "beeline"


def test_a_new_file_does_not_fill_the_bucket_of_a_token_that_stays(tokens: Tokens):
    tokens.write(limited(0.01))
    keyring = tokens.keyring()
    assert let_in(keyring, 2) == 1
    tokens.write(limited(0.01, priority="low") | {NEW: "beeline"})
    tokens.after(1)
    assert owner(keyring, NEW) == "beeline"
    assert let_in(keyring, 1) == 0


def test_another_rate_holds_from_the_moment_it_is_read(tokens: Tokens):
    tokens.write(limited(0.01))
    keyring = tokens.keyring()
    assert let_in(keyring, 2) == 1
    tokens.write(limited(5))
    tokens.after(1)
    assert let_in(keyring, 9) == 5


def test_a_keyring_keeps_digests_and_shows_nothing(tokens: Tokens):
    keyring = tokens.keyring("s3cret-hunter2")
    assert "hunter2" not in f"{keyring} {keyring!r} {vars(keyring)!r}"
    assert all(len(digest) == 32 for digest in keyring._keys)

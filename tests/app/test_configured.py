"""The policies in force: when a changed configuration file is, and what becomes of one that cannot be used."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from app.configured import Configured
from app.settings import Config, from_env
from domain.errors import StartupError
from domain.policy import OwnerPolicy, Policies, QueuePolicy
from tests.fakes import FakeClock

NOTHING = Policies()
SECRET = "sk-hunter2"


def limited(concurrency: int) -> Policies:
    return Policies(queues={"gpu.llm": QueuePolicy(concurrency)})


class File:
    """A configuration file and the clock of whoever looks at it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "config.json"
        self.clock = FakeClock()

    def write(self, content: object) -> None:
        """Put another file in its place, as whoever configures does."""
        beside = self.path.with_suffix(".new")
        beside.write_text(content if isinstance(content, str) else json.dumps(content))
        beside.replace(self.path)

    def limit(self, concurrency: int) -> None:
        self.write({"queues": {"gpu.llm": {"concurrency": concurrency}}, "ollama": {"api_key": SECRET}})

    def read(self, *, required: bool = True) -> Configured:
        settings = from_env({})
        config = Config(file=self.path, required=required)
        return Configured(replace(settings, config=config), clock=self.clock.monotonic)

    def after(self, seconds: float) -> None:
        self.clock.advance(timedelta(seconds=seconds))


@pytest.fixture
def file(tmp_path: Path) -> File:
    file = File(tmp_path)
    file.limit(4)
    return file


def test_what_the_file_says_at_the_start_is_in_force(file: File):
    assert file.read().policies == limited(4)


def test_the_file_of_the_settings_is_read(file: File):
    assert Configured(from_env({"AI_SERVICE_CONFIG": str(file.path)})).policies == limited(4)


def test_a_file_that_cannot_be_used_stops_the_start(file: File):
    file.limit(0)
    with pytest.raises(StartupError, match="AI_SERVICE_CONFIG"):
        file.read()


def test_a_changed_file_is_in_force_at_the_first_look_a_second_later(file: File):
    read = file.read()
    file.limit(8)

    file.after(0.9)
    assert not read.look()
    assert read.policies == limited(4)
    file.after(0.1)
    with capture_logs() as logs:
        assert read.look()
    assert read.policies == limited(8)
    [entry] = logs
    assert (entry["event"], entry["queues"], entry["owners"]) == ("configuration read again", 1, 0)
    assert not read.look(), "they are no longer new"


def test_a_file_that_stays_is_not_read_again(file: File):
    read = file.read()
    with capture_logs() as logs:
        for _ in range(5):
            file.after(1)
            assert not read.look()
    assert logs == []


def test_a_file_that_says_the_same_in_other_words_changes_nothing(file: File):
    read = file.read()
    file.write({"queues": {"gpu.llm": {"concurrency": 4, "preempt": False}}, "owners": {}})
    file.after(1)
    with capture_logs() as logs:
        assert not read.look()
    assert [(entry["event"], entry["changed"]) for entry in logs] == [("configuration read again", False)]


def test_what_is_no_longer_said_is_no_longer_in_force(file: File):
    file.write({"queues": {"gpu.llm": {"concurrency": 4}}, "owners": {"me": {"weight": 2}}})
    read = file.read()
    assert read.policies.owners == {"me": OwnerPolicy(2)}
    file.write({})
    file.after(1)
    assert read.look()
    assert read.policies == NOTHING


def test_a_file_that_is_changed_in_place_is_noticed(file: File):
    read = file.read()
    file.path.write_text('{"queues": {"gpu.llm": {"concurrency": 8}}}')
    os.utime(file.path, (1, 1))
    file.after(1)
    assert read.look()
    assert read.policies == limited(8)


def test_a_mounted_file_that_is_swapped_by_its_link_is_noticed(file: File, tmp_path: Path):
    for version in (1, 2):
        (tmp_path / f"v{version}").mkdir()
        (tmp_path / f"v{version}" / "c.toml").write_text(f'[queues."gpu.llm"]\nconcurrency = {version}')
    (data := tmp_path / "data").symlink_to("v1")
    file.path = data / "c.toml"
    read = file.read()

    (tmp_path / "next").symlink_to("v2")
    (tmp_path / "next").replace(data)
    file.after(1)
    assert read.look()
    assert read.policies == limited(2)


BAD = ["", "{", "[]", '{"queues": {"gpu.llm": {"concurrency": 0}}}', f'{{"{SECRET}": "{SECRET}"}}']


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_version_is_logged_once_and_the_old_one_stays_in_force(bad: str, file: File):
    read = file.read()
    file.write(bad)
    with capture_logs() as logs:
        for _ in range(3):
            file.after(1)
            assert not read.look()
            assert read.policies == limited(4)

    [refused] = logs
    assert (refused["event"], refused["log_level"]) == ("configuration refused", "error")
    assert refused["reason"].startswith(f"AI_SERVICE_CONFIG: '{file.path}' cannot be used; expected ")
    assert "hunter2" not in str(logs)


def test_another_fault_is_logged_again(file: File):
    read = file.read()
    with capture_logs() as logs:
        for bad in BAD[:3]:
            file.write(bad)
            file.after(1)
            assert not read.look()
    assert [entry["event"] for entry in logs] == ["configuration refused"] * 3


def test_a_mended_version_is_in_force_a_second_later(file: File):
    read = file.read()
    file.write("{")
    file.after(1)
    assert not read.look()
    file.limit(8)
    file.after(1)
    assert read.look()
    assert read.policies == limited(8)


@pytest.mark.parametrize("required", [True, False])
def test_a_vanished_file_is_logged_once_and_what_it_said_stays_in_force(required: bool, file: File):
    read = file.read(required=required)
    file.path.unlink()
    with capture_logs() as logs:
        for _ in range(3):
            file.after(1)
            assert not read.look()
    assert read.policies == limited(4)
    [refused] = logs
    assert "No such file" in refused["reason"]


def test_a_file_that_comes_back_as_it_was_changes_nothing(file: File):
    read = file.read()
    away = file.path.rename(file.path.with_suffix(".away"))
    file.after(1)
    assert not read.look()
    away.rename(file.path)
    file.after(1)
    with capture_logs() as logs:
        assert not read.look()
    assert [entry["event"] for entry in logs] == ["configuration read again"]


def test_a_file_that_must_be_there_and_is_not_stops_the_start(tmp_path: Path):
    with pytest.raises(StartupError, match="No such file"):
        File(tmp_path).read()


def test_a_file_that_need_not_be_there_may_come_later(tmp_path: Path):
    file = File(tmp_path)
    read = file.read(required=False)
    with capture_logs() as logs:
        file.after(1)
        assert not read.look()
    assert (read.policies, logs) == (NOTHING, [])

    file.limit(4)
    file.after(1)
    assert read.look()
    assert read.policies == limited(4)

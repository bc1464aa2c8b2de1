"""Folders for recordings: what a killed worker left there does not stay."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from actors.scratch import HELD, PREFIX, YOUNG, scratch, sweep


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def left_behind(temporary: Path) -> Path:
    """A folder whose process is gone, with a recording in it."""
    folder = temporary / f"{PREFIX}left"
    folder.mkdir()
    (folder / HELD).touch()
    (folder / "recording").write_bytes(b"RIFF")
    aged(folder)
    return folder


def aged(folder: Path) -> None:
    then = folder.stat().st_mtime - 2 * YOUNG
    os.utime(folder, (then, then))


def test_what_a_killed_worker_left_is_removed(temporary: Path) -> None:
    folder = left_behind(temporary)
    assert (sweep(), folder.exists()) == (1, False)


async def test_a_folder_in_use_stays_however_old_it_is(temporary: Path) -> None:
    async with scratch() as folder:
        aged(folder)
        assert (sweep(), folder.parent, (folder / HELD).exists()) == (0, temporary, True)
    assert not folder.exists()


def test_one_that_was_made_just_now_stays(temporary: Path) -> None:
    folder = left_behind(temporary)
    os.utime(folder)
    assert (sweep(), folder.exists()) == (0, True)


def test_a_link_of_that_name_is_not_followed(temporary: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = left_behind(tmp_path_factory.mktemp("elsewhere"))
    (temporary / f"{PREFIX}link").symlink_to(folder)
    assert (sweep(), (folder / "recording").exists()) == (0, True)


def test_a_folder_without_its_lock_is_somebody_elses(temporary: Path) -> None:
    folder = left_behind(temporary)
    (folder / HELD).unlink()
    aged(folder)
    assert (sweep(), folder.exists()) == (0, True)

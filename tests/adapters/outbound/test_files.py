# ruff: noqa: ASYNC240  # files of a few bytes
"""Recordings as files: from a URL, from the job itself, from an upload."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest

from adapters.memory.store import MemoryJobStore
from adapters.memory.uploads import MemoryUploadStore
from adapters.outbound.fetch import Fetch
from adapters.outbound.files import GONE, Files
from domain.errors import ErrorCode, Failure, RunFailed, StorageUnavailable
from domain.outbound import parse_allowed_hosts
from domain.speech import AudioBytes, AudioUpload, AudioUrl
from domain.upload import Upload
from tests.adapters.outbound.door import opened, says
from tests.factories import NO_JOB, new_id
from tests.fakes import FakeClock


@pytest.fixture
def store() -> MemoryUploadStore:
    return MemoryJobStore(FakeClock().now).uploads


@pytest.fixture
def files(store: MemoryUploadStore) -> Files:
    return Files(Fetch(allowed=parse_allowed_hosts("127.0.0.1"), max_bytes=100), store)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audio"


async def uploaded(store: MemoryUploadStore, *chunks: bytes) -> Upload:
    upload_id = new_id()
    for place, chunk in enumerate(chunks):
        await store.append(upload_id, place, chunk)
    return await store.finish(upload_id, "lion", chunks=len(chunks), size=sum(map(len, chunks)))


async def test_what_lies_at_a_url_is_fetched(files: Files, path: Path):
    async with opened(a_wav=says(b"RIFF")) as door:
        await files.fetch(AudioUrl(door.url()), "lion", path)
    assert path.read_bytes() == b"RIFF"


async def test_what_came_with_the_job_is_written(files: Files, path: Path):
    await files.fetch(AudioBytes(b"RIFF"), "lion", path)
    assert path.read_bytes() == b"RIFF"


async def test_an_upload_is_written_piece_by_piece(files: Files, store: MemoryUploadStore, path: Path):
    upload = await uploaded(store, b"first", b"second")
    await files.fetch(AudioUpload(upload.id), "lion", path)
    assert path.read_bytes() == b"firstsecond"


async def test_another_owners_upload_is_as_good_as_gone(files: Files, store: MemoryUploadStore, path: Path):
    upload = await uploaded(store, b"secret")
    for source, owner in ((AudioUpload(upload.id), "bear"), (AudioUpload(UUID(NO_JOB)), "lion")):
        with pytest.raises(RunFailed) as failed:
            await files.fetch(source, owner, path)
        assert failed.value.failure == Failure(ErrorCode.BAD_INPUT, GONE)
    assert not path.exists()


async def test_where_the_storage_is_away_another_try_is_worth_it(files: Files, path: Path):
    class Away(MemoryUploadStore):
        async def get(self, upload_id: UUID) -> Upload:
            raise StorageUnavailable

    with pytest.raises(RunFailed) as failed:
        await Files(files.fetcher, Away(FakeClock().now, {})).fetch(AudioUpload(UUID(NO_JOB)), "lion", path)
    assert failed.value.failure.code is ErrorCode.STORAGE_ERROR


async def test_where_there_is_no_room_it_is_our_own_trouble(files: Files, store: MemoryUploadStore, path: Path):
    upload = await uploaded(store, b"RIFF")
    for source in (AudioBytes(b"RIFF"), AudioUpload(upload.id)):
        with pytest.raises(RunFailed) as failed:
            await files.fetch(source, "lion", path / "missing" / "audio")
        assert failed.value.failure.code is ErrorCode.STORAGE_ERROR

"""Uploads in memory, for tests; they are gone with the process."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime
from uuid import UUID

from domain.errors import UploadInUse, UploadNotFound
from domain.job import Job, JobId, JobStatus, NewJob
from domain.upload import KEPT_UNFINISHED, KEPT_UNUSED, Upload


class MemoryUploadStore:
    """Beside a `MemoryJobStore`."""

    def __init__(self, now: Callable[[], datetime], jobs: Mapping[JobId, Job]) -> None:
        """
        Args:
            jobs: those that are stored; one that is not there any more was erased.
        """
        self._now = now
        self._jobs = jobs
        self._uploads: dict[UUID, Upload] = {}
        self._chunks: defaultdict[UUID, dict[int, bytes]] = defaultdict(dict)
        self._leftovers: dict[UUID, datetime] = {}
        self._users: defaultdict[UUID, set[JobId]] = defaultdict(set)

    async def append(self, upload_id: UUID, place: int, data: bytes) -> None:
        self._leftovers[upload_id] = self._now() + KEPT_UNFINISHED
        self._chunks[upload_id][place] = data

    async def finish(self, upload_id: UUID, owner_service: str, *, chunks: int, size: int) -> Upload:
        gone_at = self._leftovers.get(upload_id)
        if gone_at is None or gone_at <= self._now() or len(self._chunks[upload_id]) != chunks:
            raise UploadNotFound
        del self._leftovers[upload_id]
        self._uploads[upload_id] = Upload(upload_id, owner_service, size, self._now())
        return self._uploads[upload_id]

    async def discard(self, upload_id: UUID) -> None:
        if upload_id in self._leftovers:
            self._leftovers[upload_id] = self._now()

    async def get(self, upload_id: UUID) -> Upload:
        try:
            return self._uploads[upload_id]
        except KeyError:
            raise UploadNotFound from None

    async def read(self, upload: Upload) -> AsyncIterator[bytes]:
        left, place = upload.bytes, 0
        while left > 0:
            data = self._chunks.get(upload.id, {}).get(place)
            if data is None:
                raise UploadNotFound
            left, place = left - len(data), place + 1
            yield data

    async def remove(self, upload_id: UUID) -> None:
        await self.get(upload_id)
        if any(not job.status.final for job in self._known_users(upload_id)):
            raise UploadInUse
        self._take_away(upload_id)

    async def prune(self) -> int:
        unneeded = [upload.id for upload in self._uploads.values() if self._is_unneeded(upload)]
        for upload_id in unneeded:
            self._take_away(upload_id)
        for upload_id in [each for each, gone_at in self._leftovers.items() if gone_at <= self._now()]:
            del self._leftovers[upload_id]
            self._chunks.pop(upload_id, None)
        return len(unneeded)

    def usable(self, new: NewJob) -> bool:
        """Whether the upload that the job names, if any, is there and its owner's."""
        if new.upload_id is None:
            return True
        upload = self._uploads.get(new.upload_id)
        return upload is not None and upload.owner_service == new.owner_service

    def use(self, new: NewJob) -> None:
        """Keep the upload that the job names for it."""
        if new.upload_id is not None:
            self._users[new.upload_id].add(new.id)

    def _is_unneeded(self, upload: Upload) -> bool:
        long_ago = self._now() - KEPT_UNUSED
        if not self._users[upload.id]:
            return upload.created_at <= long_ago
        jobs = self._known_users(upload.id)
        if not all(job.status.final for job in jobs):
            return False
        lately = [job for job in jobs if job.finished_at and job.finished_at > long_ago]
        return not (lately and any(job.status is JobStatus.FAILED for job in jobs))

    def _known_users(self, upload_id: UUID) -> list[Job]:
        return [self._jobs[job_id] for job_id in self._users[upload_id] if job_id in self._jobs]

    def _take_away(self, upload_id: UUID) -> None:
        del self._uploads[upload_id]
        self._users.pop(upload_id, None)
        self._leftovers[upload_id] = self._now()

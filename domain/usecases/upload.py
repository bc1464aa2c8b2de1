"""Take files in for jobs to use, give them out, and remove them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from domain.access import Caller
from domain.errors import BadInput, JobNotFound, Problem, StorageUnavailable, TooLarge, UploadNotFound
from domain.ports import UploadStore
from domain.upload import CHUNK, Upload


@dataclass(frozen=True)
class Uploads:
    store: UploadStore
    new_id: Callable[[], UUID]
    max_bytes: int

    def announced(self, size: int) -> None:
        """See whether a file of this size would be taken.

        Raises:
            TooLarge.
        """
        if size > self.max_bytes:
            raise TooLarge(f"The upload has more than {self.max_bytes} bytes (MAX_UPLOAD_BYTES).")

    async def keep(self, caller: Caller, owner_service: str | None, data: AsyncIterator[bytes]) -> Upload:
        """Store a file as it comes, in pieces of any size. It is safe once this returns.

        Where it does not come whole, nothing of it stays.

        Raises:
            BadInput: it is empty, or has no owner.
            Forbidden: its owner is not the caller's.
            TooLarge: as soon as it is.
            StorageUnavailable.
        """
        owner, upload_id = caller.owner_of(owner_service), self.new_id()
        try:
            size = chunks = 0
            async for chunk in in_chunks(data):
                self.announced(size := size + len(chunk))
                await self.store.append(upload_id, chunks, chunk)
                chunks += 1
            if not size:
                raise BadInput([Problem("", "The upload is empty: send a recording.")])
            return await self.store.finish(upload_id, owner, chunks=chunks, size=size)
        except BaseException:  # also where the caller hung up, or the process ends
            with suppress(StorageUnavailable):  # it is forgotten later
                await self.store.discard(upload_id)
            raise

    async def one(self, caller: Caller, upload_id: UUID) -> Upload:
        """
        Raises:
            UploadNotFound: there is none, or it is another owner's.
        """
        upload = await self.store.get(upload_id)
        try:
            caller.must_own(upload.owner_service)
        except JobNotFound:
            raise UploadNotFound from None
        return upload

    def read(self, upload: Upload) -> AsyncIterator[bytes]:
        """Its content, in pieces.

        Raises:
            UploadNotFound: it was removed meanwhile.
        """
        return self.store.read(upload)

    async def remove(self, caller: Caller, upload_id: UUID) -> None:
        """
        Raises:
            UploadNotFound.
            UploadInUse: a job that is not final needs it.
        """
        await self.one(caller, upload_id)
        await self.store.remove(upload_id)


async def in_chunks(data: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in pieces of `CHUNK`, and what is left in the last one."""
    buffer = bytearray()
    async for piece in data:
        buffer += piece
        while len(buffer) >= CHUNK:
            yield bytes(buffer[:CHUNK])
            del buffer[:CHUNK]
    if buffer:
        yield bytes(buffer)

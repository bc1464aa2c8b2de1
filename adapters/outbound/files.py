"""Recordings as files, wherever they come from: a caller's URL, the job itself, an upload."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from adapters.outbound.fetch import Fetch
from domain.errors import ErrorCode, RunFailed, StorageUnavailable, UploadNotFound
from domain.ports import UploadStore
from domain.speech import AudioBytes, AudioSource, AudioUpload, AudioUrl

GONE = "The upload is gone: it was removed, or is another owner's."


@dataclass(frozen=True)
class Files:
    """The port `AudioFiles`."""

    fetcher: Fetch
    uploads: UploadStore

    async def fetch(self, source: AudioSource, owner_service: str, path: Path) -> None:
        """Write the recording into this file. Where that fails, there may be a part of it.

        Raises:
            RunFailed: as `Fetch` does; an upload that is not there is `bad_input`.
        """
        try:
            match source:
                case AudioUrl(url):
                    await self.fetcher(url, path)
                case AudioBytes(data):
                    await asyncio.to_thread(path.write_bytes, data)
                case AudioUpload(upload_id):
                    await self._copy(upload_id, owner_service, path)
        except OSError as error:
            raise RunFailed(
                ErrorCode.STORAGE_ERROR, f"The recording cannot be kept here ({error.strerror})."
            ) from error

    async def _copy(self, upload_id: UUID, owner_service: str, path: Path) -> None:
        try:
            upload = await self.uploads.get(upload_id)
            if upload.owner_service != owner_service:
                raise UploadNotFound
            with path.open("wb") as file:
                async for piece in self.uploads.read(upload):
                    await asyncio.to_thread(file.write, piece)
        except UploadNotFound:
            raise RunFailed(ErrorCode.BAD_INPUT, GONE) from None
        except StorageUnavailable as error:
            raise RunFailed(ErrorCode.STORAGE_ERROR, "The upload cannot be read at this moment.") from error

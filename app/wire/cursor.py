"""Where a list goes on: opaque to callers, and good only for the filters that it was given out for."""

from __future__ import annotations

import binascii
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b

import msgspec

from domain.errors import BadInput, Problem
from domain.ports import JobFilter

_LAYOUT = struct.Struct(">q8s")


def encode_cursor(seq: int, where: JobFilter) -> str:
    """Go on below this `seq`."""
    return urlsafe_b64encode(_LAYOUT.pack(seq, _seal(seq, where))).decode().rstrip("=")


def decode_cursor(cursor: str, where: JobFilter) -> int:
    """The `seq` below which the list goes on.

    Raises:
        BadInput: it was not given out for these filters.
    """
    try:
        seq, seal = _LAYOUT.unpack(urlsafe_b64decode(cursor + "=="))
    except (binascii.Error, struct.error, ValueError):
        seq, seal = 0, b""
    if seal != _seal(seq, where):
        raise BadInput(
            [Problem("/cursor", "It is not a cursor of this list: send `next_cursor` with the same filters.")]
        )
    return int(seq)


def _seal(seq: int, where: JobFilter) -> bytes:
    """Against mistakes, not against malice: a caller may see every page anyway."""
    filters = [sorted(set(values)) for values in msgspec.structs.astuple(where)]
    return blake2b(msgspec.json.encode([seq, filters]), digest_size=8).digest()

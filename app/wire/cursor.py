"""Where a list goes on: opaque to callers, and good only for the filters and the order that it was given out for."""

from __future__ import annotations

import binascii
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from hashlib import blake2b

import msgspec

from domain.errors import BadInput, Problem
from domain.ports import JobFilter, Place

_LAYOUT = struct.Struct(">qq8s")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def encode_cursor(place: Place, where: JobFilter, *, newest_first: bool) -> str:
    """Go on after this place."""
    packed = _LAYOUT.pack((place.created_at - _EPOCH) // _MICROSECOND, place.seq, _seal(place, where, newest_first))
    return urlsafe_b64encode(packed).decode().rstrip("=")


def decode_cursor(cursor: str, where: JobFilter, *, newest_first: bool) -> Place:
    """The place after which the list goes on.

    Raises:
        BadInput: it was not given out for these filters in this order.
    """
    try:
        microseconds, seq, seal = _LAYOUT.unpack(urlsafe_b64decode(cursor + "=="))
        place = Place(_EPOCH + microseconds * _MICROSECOND, seq)
    except (binascii.Error, struct.error, ValueError, OverflowError):
        place, seal = Place(_EPOCH, 0), b""
    if seal != _seal(place, where, newest_first):
        raise BadInput(
            [Problem("/cursor", "It is not a cursor of this list: send `next_cursor` with the same filters and order.")]
        )
    return place


def _seal(place: Place, where: JobFilter, newest_first: bool) -> bytes:
    """Against mistakes, not against malice: a caller may see every page anyway."""
    filters = [sorted(set(each)) if isinstance(each, tuple) else each for each in msgspec.structs.astuple(where)]
    return blake2b(msgspec.json.encode([place, filters, newest_first]), digest_size=8).digest()

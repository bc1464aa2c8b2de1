"""Idempotency keys: where a request says them, and what it must repeat to mean the same job."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from domain.errors import BadInput, Problem
from domain.job import IdempotencyKey

FIELD = "idempotency_key"
HEADER = "Idempotency-Key"

# No control characters; `$` alone would let a newline follow.
Key = Annotated[str, Meta(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$(?!\n)")]

_STRING = re.compile(r'"((?:[^"\\]|\\["\\])*)"')


def read_key(headers: Sequence[str], field: str | UnsetType, document: bytes) -> IdempotencyKey | None:
    """The key of a request, or None where it has none.

    Args:
        headers: what was sent as `Idempotency-Key`, quoted (RFC 8941) or bare.
        field: the key in the document.
        document: what must be sent again under this key.

    Raises:
        BadInput: a key that cannot be one, or two of them.
    """
    given = {_of_header(header) for header in headers} | ({field} if field is not UNSET else set())
    if len(given) > 1:
        raise _wrong("The header and the field, or two headers, differ: send one key.")
    return IdempotencyKey(key, fingerprint(document)) if (key := next(iter(given), None)) is not None else None


def must_have_no_key(headers: Sequence[str]) -> None:
    """
    Raises:
        BadInput: a batch came with one key for all of its jobs.
    """
    if headers:
        raise _wrong("A batch has no key of its own: give each job its `idempotency_key`.")


def fingerprint(document: bytes) -> bytes:
    """The same for documents that say the same, whatever their spaces and the order of their fields."""
    try:
        fields = json.loads(document)
        fields.pop(FIELD, None)
        document = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    except (RecursionError, ValueError):
        pass  # nested too deeply, or a number too long, for this parser: such a document must come byte for byte
    return blake2b(document, digest_size=16).digest()


def _of_header(header: str) -> str:
    quoted = _STRING.fullmatch(header) if header.startswith('"') else None
    if header.startswith('"') and not quoted:
        raise _wrong("The header must be a quoted string, or a bare one without quotes at its start.")
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else header
    try:
        # Headers arrive as latin-1; taken as the bytes that were sent.
        return msgspec.convert(key.encode("latin-1").decode(), Key)
    except UnicodeError:
        raise _wrong("The header is not UTF-8.") from None
    except msgspec.ValidationError as error:
        raise _wrong(str(error)) from None


def _wrong(detail: str) -> BadInput:
    return BadInput([Problem(f"/{FIELD}", detail)])

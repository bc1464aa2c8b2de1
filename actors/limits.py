"""What bounds a result."""

from __future__ import annotations

from domain.errors import ErrorCode, RunFailed


def within_limit(result: bytes, max_result_bytes: int) -> bytes:
    """The result, if it may be stored.

    Raises:
        RunFailed: `bad_response`: it is larger than `MAX_RESULT_BYTES`.
    """
    if len(result) > max_result_bytes:
        message = f"The result has {len(result)} bytes; at most {max_result_bytes} are stored (MAX_RESULT_BYTES)."
        raise RunFailed(ErrorCode.BAD_RESPONSE, message)
    return result

from __future__ import annotations

from uuid import RFC_4122

from hypothesis import given
from hypothesis import strategies as st

from domain.identity import job_id

times = st.integers(0, 2**48 - 1)
random_bytes = st.binary(min_size=10, max_size=16)


@given(unix_ms=times, randomness=random_bytes)
def test_an_id_is_a_uuid_of_version_7_that_tells_its_time(unix_ms: int, randomness: bytes):
    identity = job_id(unix_ms, randomness)
    assert (identity.version, identity.variant) == (7, RFC_4122)
    assert identity.int >> 80 == unix_ms


@given(first=times, second=times, randomness=st.lists(random_bytes, min_size=2, max_size=2))
def test_ids_sort_by_time_as_values_and_as_text(first: int, second: int, randomness: list[bytes]):
    earlier, later = (job_id(at, some) for at, some in zip(sorted([first, second]), randomness, strict=True))
    if first != second:
        assert earlier < later
        assert str(earlier) < str(later)


def test_ids_of_one_millisecond_differ_by_their_74_random_bits():
    ones = job_id(0, b"\xff" * 10).int
    assert (ones ^ job_id(0, bytes(10)).int).bit_count() == 74

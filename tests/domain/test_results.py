from __future__ import annotations

from contextlib import suppress
from typing import Any, get_args, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import BadInput
from domain.results import RESULT_SCHEMAS, check_result

SEGMENT = {"start": 0.0, "end": 1.5, "text": "Good morning."}
RESULTS: dict[str, dict[str, Any]] = {
    "ai.chat_result.v1": {"content": "Good morning.", "model": "qwen2.5-14b", "duration_ms": 12},
    "ai.transcription_result.v1": {"language": "en", "segments": [SEGMENT], "duration_ms": 12},
    "ai.embedding_result.v1": {"embeddings": [[0.25, -1]], "model": "bge-m3", "duration_ms": 12},
}
EVERY_VERSION = pytest.mark.parametrize("version", RESULTS)


def result(version: str, **changes: Any) -> dict[str, Any]:
    return {"schema_version": version} | RESULTS[version] | changes


def pointers(given: Any) -> list[str]:
    with pytest.raises(BadInput) as refusal:
        check_result(msgspec.json.encode(given))
    return [problem.pointer for problem in refusal.value.problems]


def transcription(*segments: Any) -> dict[str, Any]:
    return result("ai.transcription_result.v1", segments=segments)


@EVERY_VERSION
def test_a_result_that_fits_its_version_passes(version: str):
    check_result(msgspec.json.encode(result(version)))


def test_every_version_names_its_own_schema():
    named = {version: get_args(get_type_hints(kind)["schema_version"]) for version, kind in RESULT_SCHEMAS.items()}
    assert named == {version: (version,) for version in RESULTS}


@EVERY_VERSION
def test_what_a_version_writes_it_also_reads(version: str):
    kind = RESULT_SCHEMAS[version]
    read = msgspec.json.decode(msgspec.json.encode(result(version)), type=kind)
    assert msgspec.json.decode(msgspec.json.encode(read)) == result(version)


@EVERY_VERSION
def test_unknown_fields_are_not_looked_at(version: str):
    check_result(msgspec.json.encode(result(version, new_in_2030={"a": [1]})))


@EVERY_VERSION
def test_a_missing_field_is_refused(version: str):
    for name in RESULTS[version]:
        given = result(version)
        del given[name]
        assert pointers(given) == [f"/result/{name}"]


@EVERY_VERSION
def test_a_field_of_another_type_is_pointed_at(version: str):
    assert pointers(result(version, duration_ms="12")) == ["/result/duration_ms"]
    assert pointers(result(version, duration_ms=-1)) == ["/result/duration_ms"]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"content": 1},
        {"schema_version": "ours.of_nobody.v1", "content": 1},
        {"schema_version": "ai.chat_result.v2", "content": 1},
        {"schema_version": 1, "content": 1},
        {"schema_version": ["ai.chat_result.v1"], "content": 1},
        {"schema_version": None},
    ],
)
def test_any_other_object_passes(given: Any):
    check_result(msgspec.json.encode(given))


@pytest.mark.parametrize("given", [[], "text", 1, None])
def test_what_is_no_object_is_refused(given: Any):
    assert pointers(given) == ["/result"]


@pytest.mark.parametrize("raw", [b"", b"{", b'{"a": NaN}', b'{"a": ' + b"[" * 100_000, b'{"schema_version": "\xff"}'])
def test_what_is_no_json_is_refused(raw: bytes):
    with pytest.raises(BadInput):
        check_result(raw)


@pytest.mark.parametrize(
    ("segment", "pointer"),
    [
        ({"start": 2.0, "end": 1.9}, "/result/segments/1"),
        ({"start": -0.1}, "/result/segments/1/start"),
        ({"start": -2, "end": -1}, "/result/segments/1/start"),
        ({"end": None}, "/result/segments/1/end"),
        ({"text": None}, "/result/segments/1/text"),
        ({"speaker": 1}, "/result/segments/1/speaker"),
    ],
)
def test_a_segment_that_cannot_be_is_pointed_at(segment: dict[str, Any], pointer: str):
    assert pointers(transcription(SEGMENT, SEGMENT | segment)) == [pointer]


@pytest.mark.parametrize("time", [b"1e999", b"-1e999"])
def test_a_time_without_end_is_refused(time: bytes):
    raw = msgspec.json.encode(transcription(SEGMENT)).replace(b"1.5", time)
    with pytest.raises(BadInput, match="/result/segments/0/end"):
        check_result(raw)


def test_a_segment_may_be_a_moment_and_have_a_speaker():
    check_result(msgspec.json.encode(transcription({"start": 3, "end": 3, "text": "", "speaker": "A"})))


def test_silence_is_a_transcript_without_segments():
    check_result(msgspec.json.encode(transcription()))


def test_provider_attempts_may_say_more_than_we_know():
    attempts = [{"provider": "a", "error_code": "timeout", "host": "gpu-1"}, {"provider": "b", "duration_ms": 900}]
    check_result(msgspec.json.encode(result("ai.transcription_result.v1", attempts=attempts)))
    assert pointers(result("ai.transcription_result.v1", attempts=[{"provider": 1}])) == ["/result/attempts/0/provider"]


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists), st.data())
def test_whatever_is_put_into_a_result_it_passes_or_is_refused(value: Any, data: st.DataObject):
    version = data.draw(st.sampled_from(sorted(RESULTS)))
    name = data.draw(st.sampled_from(sorted(RESULTS[version])))
    with suppress(BadInput):
        check_result(msgspec.json.encode(result(version, **{name: value})))

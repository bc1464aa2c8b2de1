"""The documents in docs/contracts that the code decides: what they must say now, and how they are written anew."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from app.api.documents import portable
from app.http import openapi_document
from domain.results import (
    RESULT_SCHEMAS,
    ChatResult,
    EmbeddingResult,
    ProviderAttempt,
    Segment,
    TranscriptionResult,
    Usage,
)
from tests.contracts.compatibility import METHODS, breaks, schema_breaks

FOLDER = Path(__file__).parents[2] / "docs" / "contracts"
DESCRIPTION = "openapi.json"
GENERATED = (DESCRIPTION, "schemas/*.json", "examples/*.json")
SCHEMA_ID = "urn:schema:ai-service:{version}"

HOW_TO_VERSION = """\
Keep what there is and add beside it: an optional field, a parameter that may be left out, another path or another
operation. What cannot stay as it is gets a new name: a result a new schema_version (ai.chat_result.v2), an API a new
path (/api/v2/...), and the old one goes on being served. docs/contracts/README.md says what callers rely on."""

RESULTS = [
    ChatResult(
        content="The caller asks for a refund.",
        model="qwen2.5-14b",
        usage=Usage(prompt_tokens=412, completion_tokens=9, total_tokens=421),
        duration_ms=2840,
    ),
    TranscriptionResult(
        provider="whisper",
        model="openai/whisper-large-v3",
        attempts=(
            ProviderAttempt(provider="whisperx", error_code="provider_unavailable", duration_ms=31),
            ProviderAttempt(provider="whisper", model="openai/whisper-large-v3", duration_ms=6120),
        ),
        language="en",
        segments=(
            Segment(start=0.0, end=2.4, text="Good morning, how can I help you?", speaker="SPEAKER_00"),
            Segment(start=2.9, end=5.1, text="I would like my money back.", speaker="SPEAKER_01"),
        ),
        duration_ms=6214,
    ),
    EmbeddingResult(
        embeddings=((0.0123, -0.9871, 0.5), (0.25, 0.0, -0.125)),
        model="bge-m3",
        usage=Usage(prompt_tokens=7, total_tokens=7),
        duration_ms=18,
    ),
]


@cache
def description() -> bytes:
    """That of the API, made once: several tests begin with it, and it takes half a second."""
    return openapi_document()


def generated() -> dict[str, bytes]:
    """Every document by its path in the folder. Of several problems with one status the first is shown."""
    documents = {DESCRIPTION: description() + b"\n"}
    for path, document in [*_schemas(), *_examples(json.loads(description()))]:
        documents.setdefault(path, json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n")
    return documents


def published(folder: Path) -> dict[str, bytes]:
    """What the folder says."""
    paths = (path for pattern in GENERATED for path in folder.glob(pattern))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def broken(old: dict[str, bytes], new: dict[str, bytes]) -> list[str]:
    """What the new documents take from those who rely on the old ones. Examples promise nothing."""
    found: list[str] = []
    for path in sorted(old):
        if path.startswith("examples/"):
            continue
        if path not in new:
            found.append(f"{path} is gone")
        else:
            compare = breaks if path == DESCRIPTION else schema_breaks
            found += compare(json.loads(old[path]), json.loads(new[path]))
    return found


def write(documents: dict[str, bytes], folder: Path) -> list[str]:
    """Make the folder say this. Returns the paths that changed."""
    old = published(folder)
    for path in old.keys() - documents.keys():
        (folder / path).unlink()
    for path, content in documents.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return sorted(path for path in old.keys() | documents.keys() if old.get(path) != documents.get(path))


def _schemas() -> Iterator[tuple[str, Any]]:
    for version, kind in RESULT_SCHEMAS.items():
        yield f"schemas/{version}.json", result_schema(version, kind)


def result_schema(version: str, kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON Schema of a result, to be read alone."""
    schema: dict[str, Any] = portable(msgspec.json.schema(kind))
    definitions = schema["$defs"]
    root = definitions.pop(kind.__name__)
    root["properties"]["schema_version"] = {"const": version}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID.format(version=version),
        **root,
        "title": version,
        "required": ["schema_version", *root["required"]],
        **({"$defs": definitions} if definitions else {}),
    }


def _examples(description: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Of each operation its request and its answers, of each problem one, of each result one."""
    for operation in (item[method] for item in description["paths"].values() for method in METHODS if method in item):
        name = operation["operationId"]
        if body := operation.get("requestBody"):
            yield from _example(f"{name}.request", body)
        for status, response in operation["responses"].items():
            problem = "application/problem+json" in response.get("content", {})
            yield from _example(f"problem.{status}" if problem else f"{name}.{status}", response)
    for result in RESULTS:
        document = msgspec.to_builtins(result)
        yield f"examples/{document['schema_version']}.json", document


def _example(name: str, described: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for media_type, content in described.get("content", {}).items():
        if media_type.endswith("json") and "examples" in content:
            yield f"examples/{name}.json", content["examples"]["example"]["value"]

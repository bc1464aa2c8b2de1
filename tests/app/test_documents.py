from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from app.wire.health import Liveness, ReadinessView
from app.wire.jobs import JobPage, JobView, NewJob
from app.wire.problem import ProblemDetails
from tests.app.conftest import Api

STRUCTS = {struct.__name__: struct for struct in (Liveness, ReadinessView, JobPage, JobView, NewJob, ProblemDetails)}
PATHS = {
    ("get", "/api/v1/jobs"): {"200", "401", "422", "500", "503"},
    ("post", "/api/v1/jobs"): {"201", "400", "401", "413", "422", "500", "503"},
    ("get", "/api/v1/jobs/{job_id}"): {"200", "401", "404", "422", "500", "503"},
    ("post", "/api/v1/jobs/{job_id}/cancel"): {"200", "401", "404", "409", "500", "503"},
    ("post", "/api/v1/jobs/{job_id}/retry"): {"200", "401", "404", "409", "500", "503"},
    ("get", "/healthz"): {"200"},
    ("get", "/readyz"): {"200", "503"},
}


@pytest.fixture
async def document(api: Api) -> dict[str, Any]:
    document: dict[str, Any] = (await api.client.get("/schema/openapi.json")).json()
    return document


def operations(document: dict[str, Any]) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield (method, path), operation


def every(node: object, key: str) -> Iterator[Any]:
    """What stands under this key, anywhere."""
    if isinstance(node, dict):
        yield from (value for name, value in node.items() if name == key)
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from every(child, key)


def test_every_route_and_every_status_is_described(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    assert {name: set(operation["responses"]) for name, operation in operations(document)} == PATHS


def test_every_operation_has_a_name_and_a_summary(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, operation in operations(document)]
    assert len(set(ids)) == len(PATHS)
    assert all(operation["summary"] and operation["tags"] for _, operation in operations(document))


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    names = {reference.removeprefix("#/components/schemas/") for reference in every(document, "$ref")}
    assert names <= document["components"]["schemas"].keys()


def test_every_path_parameter_is_described(document: dict[str, Any]) -> None:
    for (_, path), operation in operations(document):
        described = [each["name"] for each in operation.get("parameters", []) if each["in"] == "path"]
        assert described == re.findall(r"{(\w+)}", path)


def test_every_example_is_valid_for_its_schema(document: dict[str, Any]) -> None:
    for _, operation in operations(document):
        for described in [*operation["responses"].values(), *filter(None, [operation.get("requestBody")])]:
            [content] = described["content"].values()
            struct = STRUCTS[content["schema"]["$ref"].rpartition("/")[2]]
            msgspec.json.decode(msgspec.json.encode(content["examples"]["example"]["value"]), type=struct)


def test_the_input_is_an_object_and_names_have_their_pattern(document: dict[str, Any]) -> None:
    fields = document["components"]["schemas"]["NewJob"]["properties"]
    assert fields["input"]["type"] == "object"
    assert fields["owner_service"]["pattern"].startswith("^[A-Za-z0-9]")


def test_an_open_api_asks_for_no_token(document: dict[str, Any]) -> None:
    assert not list(every(document["paths"], "security"))


async def test_a_guarded_api_says_that_it_wants_a_token(guarded_api: Api) -> None:
    document = (await guarded_api.client.get("/schema/openapi.json")).json()
    guarded = {path for (_, path), operation in operations(document) if operation.get("security") == [{"bearer": []}]}
    assert guarded == {path for _, path in PATHS if path.startswith("/api/")}


async def test_the_page_loads_nothing_from_outside(api: Api) -> None:
    page = await api.client.get("/schema")
    loaded = re.findall(r"""(?:src|href)=["']([^"']+)""", page.text)
    assert len(loaded) >= 3
    assert all(address.startswith(("/schema/files/", "data:")) for address in loaded)
    assert not re.findall(r"https?://|//cdn", page.text)
    assert page.headers["content-security-policy"].startswith("default-src 'self'")


async def test_what_the_page_loads_is_there(api: Api) -> None:
    page = await api.client.get("/schema")
    for address in re.findall(r"/schema/files/[\w.-]+", page.text):
        assert (await api.client.get(address)).status_code == 200

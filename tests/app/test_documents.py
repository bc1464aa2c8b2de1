from __future__ import annotations

import re
from collections.abc import Iterator
from types import NoneType
from typing import Any

import pytest

from tests.app.conftest import Api

TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": NoneType,
}
GUARDED = ("/api/", "/queue/", "/chat")
ALWAYS = {"401", "403", "429", "500", "503"}
PATHS = {
    ("get", "/api/v1/jobs"): ALWAYS | {"200", "422"},
    ("post", "/api/v1/jobs"): ALWAYS | {"200", "201", "400", "413", "422"},
    ("post", "/api/v1/jobs/batch"): ALWAYS | {"201", "400", "413", "422"},
    ("get", "/api/v1/jobs/{job_id}"): ALWAYS | {"200", "404", "422"},
    ("delete", "/api/v1/jobs/{job_id}"): ALWAYS | {"204", "404", "409"},
    ("get", "/api/v1/jobs/{job_id}/runs"): ALWAYS | {"200", "404"},
    ("get", "/api/v1/jobs/{job_id}/events"): ALWAYS | {"200", "204", "404", "422"},
    ("post", "/api/v1/jobs/{job_id}/cancel"): ALWAYS | {"200", "404", "409"},
    ("post", "/api/v1/jobs/{job_id}/retry"): ALWAYS | {"200", "404", "409"},
    ("post", "/api/v1/jobs/cancel"): ALWAYS | {"200", "400", "413", "422"},
    ("post", "/api/v1/jobs/retry"): ALWAYS | {"200", "400", "413", "422"},
    ("post", "/api/v1/uploads"): ALWAYS | {"201", "400", "413", "422"},
    ("get", "/api/v1/uploads/{upload_id}"): ALWAYS | {"200", "404"},
    ("get", "/api/v1/uploads/{upload_id}/content"): ALWAYS | {"200", "404"},
    ("delete", "/api/v1/uploads/{upload_id}"): ALWAYS | {"204", "404", "409"},
    ("post", "/api/v1/jobs/erase"): ALWAYS | {"200", "400", "413", "422"},
    ("post", "/api/v1/jobs/claim"): ALWAYS | {"200", "400", "413", "422"},
    ("post", "/api/v1/jobs/{job_id}/heartbeat"): ALWAYS | {"200", "400", "404", "409", "413", "422"},
    ("post", "/api/v1/jobs/{job_id}/complete"): ALWAYS | {"200", "400", "404", "409", "413", "422"},
    ("post", "/api/v1/jobs/{job_id}/fail"): ALWAYS | {"200", "400", "404", "409", "413", "422"},
    ("post", "/api/v1/jobs/{job_id}/release"): ALWAYS | {"200", "400", "404", "409", "413", "422"},
    ("get", "/api/v1/stats"): ALWAYS | {"200"},
    ("get", "/api/v1/queues"): ALWAYS | {"200"},
    ("post", "/api/v1/queues/{name}/pause"): ALWAYS | {"200", "404"},
    ("post", "/api/v1/queues/{name}/resume"): ALWAYS | {"200", "404"},
    ("post", "/api/v1/queues/{name}/close-circuit"): ALWAYS | {"200", "404"},
    ("get", "/api/v1/workers"): ALWAYS | {"200"},
    ("get", "/queue/status"): ALWAYS | {"200", "404", "422"},
    ("post", "/queue/pause"): ALWAYS | {"200", "404", "422"},
    ("post", "/queue/resume"): ALWAYS | {"200", "404", "422"},
    ("post", "/queue/start"): ALWAYS | {"200", "404", "422"},
    ("post", "/queue/stop"): ALWAYS | {"200", "404", "422"},
    ("post", "/chat"): ALWAYS | {"200", "400", "413", "422", "502", "504"},
    ("post", "/chat/stream"): ALWAYS | {"200", "400", "413", "422", "502", "504"},
    ("post", "/queue/jobs"): ALWAYS | {"202", "400", "413", "422"},
    ("get", "/queue/jobs/{job_id}"): ALWAYS | {"200", "404"},
    ("delete", "/queue/jobs/{job_id}"): ALWAYS | {"200", "404", "409"},
    ("get", "/api/v1/providers/status"): ALWAYS | {"200"},
    ("get", "/health"): {"200"},
    ("get", "/api/v1/infra/status"): ALWAYS | {"200"},
    ("get", "/health/detail"): {"200"},
    ("get", "/health/provider"): {"200"},
    ("get", "/healthz"): {"200"},
    ("get", "/metrics"): {"200"},
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


def fits(value: Any, schema: dict[str, Any], document: dict[str, Any]) -> bool:
    """Whether a value is valid, by those words of JSON Schema that our schemas use."""
    if reference := schema.get("$ref"):
        return fits(value, document["components"]["schemas"][reference.rpartition("/")[2]], document)
    if branches := schema.get("anyOf"):
        return any(fits(value, branch, document) for branch in branches)
    if "enum" in schema:
        return value in schema["enum"]
    if not isinstance(value, TYPES[schema["type"]]):
        return False
    return has_fitting_parts(value, schema, document)


def has_fitting_parts(value: Any, schema: dict[str, Any], document: dict[str, Any]) -> bool:
    fields = schema.get("properties", {})
    return (
        all(name in value for name in schema.get("required", ()))
        and all(fits(value[name], fields[name], document) for name in fields if name in value)
        and all(fits(item, schema["items"], document) for item in (value if "items" in schema else ()))
        and bool(re.search(schema.get("pattern", ""), str(value)))
    )


def test_every_route_and_every_status_is_described(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    assert {name: set(operation["responses"]) for name, operation in operations(document)} == PATHS


def test_the_headers_of_refusals_are_described(document: dict[str, Any]) -> None:
    named = {"401": ["WWW-Authenticate"], "429": ["Retry-After"], "503": ["Retry-After"]}
    for (_, path), operation in operations(document):
        for status, response in operation["responses"].items():
            if path.startswith(GUARDED) and int(status) >= 400:
                assert list(response.get("headers") or ()) == named.get(status, [])


def test_a_call_tells_which_problems_are_its_own(document: dict[str, Any]) -> None:
    paths = document["paths"]
    full = paths["/api/v1/jobs"]["post"]["responses"]["429"]
    assert full["description"] == "Too many requests / The owner has too many waiting jobs"
    unknown = paths["/queue/pause"]["post"]["responses"]["404"]["content"]["application/problem+json"]
    assert unknown["examples"]["example"]["value"]["type"] == "urn:problem:ai-service:queue-not-found"


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
        documents = [*operation["responses"].values(), *filter(None, [operation.get("requestBody")])]
        for described in [each for each in documents if "content" in each]:
            for media_type, content in described["content"].items():
                if "examples" in content or "json" in media_type:  # a recording has none
                    assert fits(content["examples"]["example"]["value"], content["schema"], document)


def test_the_input_is_an_object_and_names_have_their_pattern(document: dict[str, Any]) -> None:
    fields = document["components"]["schemas"]["NewJob"]["properties"]
    assert fields["input"]["type"] == "object"
    assert fields["owner_service"]["pattern"].startswith("^[A-Za-z0-9]")


def test_an_open_api_asks_for_no_token(document: dict[str, Any]) -> None:
    assert not list(every(document["paths"], "security"))


async def test_a_guarded_api_says_that_it_wants_a_token(guarded_api: Api) -> None:
    document = (await guarded_api.client.get("/schema/openapi.json")).json()
    guarded = {path for (_, path), operation in operations(document) if operation.get("security") == [{"bearer": []}]}
    assert guarded == {path for _, path in PATHS if path.startswith(GUARDED)}


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

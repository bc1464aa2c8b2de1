"""What docs/ci.md tells consumers to do in their own CI is done here, as it stands there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from domain.errors import ErrorCode
from domain.retry import RETRIES, Retry
from tests.contracts.conftest import Served
from tests.contracts.documents import FOLDER
from tests.contracts.states import STATES
from tests.e2e.service import Installation
from tests.servers.postgres import Databases

PAGE = (FOLDER.parent / "ci.md").read_text(encoding="utf-8")
DOCUMENTED = "http://127.0.0.1:8080"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def service(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """As the page starts it, but on a PostgreSQL that runs already."""
    [command] = re.findall(r"^(.*) ai-service up &$", blocks("bash")[0], re.MULTILINE)
    settings = dict(re.findall(r"(\w+)=(\"[^\"]*\"|\S+)", command))
    assert settings.pop("DATA_DIR") == '"$(mktemp -d)"'
    dsn = databases.create()
    with Installation(
        tmp_path_factory.mktemp("service"), **{"DATABASE_URL": dsn, "LLM_MODEL": "", "LOG_LEVEL": "info", **settings}
    ) as installation:
        yield Served(installation.up().url)
    databases.drop(dsn)


@pytest.fixture(scope="module")
def followed(service: Served) -> Iterator[dict[str, Any]]:
    """What the page's Python has made of itself, read from top to bottom."""
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(FOLDER.parents[1])
        patch.setenv("PACT_DO_NOT_TRACK", "true")
        patch.setenv("NO_PROXY", "*")
        for block in blocks("python"):
            exec(compile(block.replace(DOCUMENTED, service.url), "docs/ci.md", "exec"), names)
        yield names
    names["ai"].close()


def rows(title: str) -> list[list[str]]:
    section = PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]
    table = re.findall(r"^\| (.*) \|$", section, re.MULTILINE)[1:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)] for row in table if not row.startswith("---")]


CODES = {
    ErrorCode(code): re.findall(r"`(\w+)`", once)[0]
    for codes, once, _ in rows("Every error code")
    for code in re.findall(r"`(\w+)`", codes)
}


def test_its_python_runs_from_top_to_bottom(followed: dict[str, Any]):
    assert followed["job"]["status"] == "pending"


def test_its_table_names_every_code_and_what_the_retry_table_says():
    assert {code: "pending" if retry is Retry.GIVE_BACK else "failed" for code, retry in RETRIES.items()} == CODES


@pytest.mark.parametrize("code", ErrorCode)
def test_every_code_can_be_provoked_as_its_table_says(code: ErrorCode, followed: dict[str, Any]):
    job = followed["practised"](error_code=code.value)
    assert (job["error_code"], job["status"]) == (code, CODES[code])


def test_every_status_of_its_table_is_one_that_the_api_page_explains():
    api = (FOLDER.parent / "api.md").read_text(encoding="utf-8").partition("## Errors")[2].partition("\n## ")[0]
    told = {status for statuses, *_ in rows("Every refusal") for status in statuses.split(", ")}
    assert told == set(re.findall(r"^\| (\d{3}) ", api, re.MULTILINE))


def test_its_states_are_those_that_there_are():
    assert {state.strip("`") for state, *_ in rows("Pacts")} == STATES.keys()


def test_the_description_is_served_where_it_says(service: Served):
    served = {url for block in blocks("bash") for url in re.findall(r"http://[\w.:]+(/schema\S+)", block)}
    assert [httpx.get(service.url + path, trust_env=False).status_code for path in served] == [200]

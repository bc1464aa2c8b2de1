"""What callers and workers wrote down of their needs is what the service does: their pacts, verified for real."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx
import pytest
from pact import Verifier

from tests.contracts.conftest import Served
from tests.contracts.documents import FOLDER
from tests.contracts.states import STATES, States, served

PACTS = sorted((FOLDER / "pacts").glob("*.json"))


@pytest.fixture(autouse=True)
def untracked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The verifier would tell its makers about each run."""
    monkeypatch.setenv("PACT_DO_NOT_TRACK", "true")


@pytest.mark.parametrize("pact", PACTS, ids=lambda pact: pact.stem)
def test_a_pact_is_kept(pact: Path, service: Served, caller: httpx.Client):
    with served(States(caller)) as states:
        verifier = (
            Verifier("ai-service", host="127.0.0.1")
            .add_transport(url=service.url)
            .add_custom_header(*service.headers.popitem())
            .state_handler(states, body=True)
            .set_request_timeout(60_000)
            .add_source(pact)
        )
        try:
            verifier.verify()
        except RuntimeError:
            pytest.fail(json.dumps(verifier.results["errors"], indent=2))


def test_a_pact_that_is_not_kept_is_found(tmp_path: Path, service: Served, caller: httpx.Client):
    pact = json.loads((FOLDER / "pacts" / "telephony.json").read_bytes())
    pact["interactions"] = pact["interactions"][:1]
    pact["interactions"][0]["response"]["status"] = 202
    (tmp_path / "wrong.json").write_text(json.dumps(pact))

    with pytest.raises(pytest.fail.Exception, match="expected 202 but was 20"):
        test_a_pact_is_kept(tmp_path / "wrong.json", service, caller)


def test_every_state_is_asked_for_and_every_one_that_is_asked_for_exists():
    asked = {
        state["name"]
        for pact in PACTS
        for interaction in json.loads(pact.read_bytes())["interactions"]
        for state in interaction.get("providerStates", [])
    }
    assert asked == STATES.keys()


def test_no_pact_holds_a_token():
    assert not [pact.name for pact in PACTS if re.search("authorization|bearer", pact.read_text(), re.IGNORECASE)]

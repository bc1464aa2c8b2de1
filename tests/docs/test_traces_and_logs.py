"""The page names what really is logged and traced."""

from __future__ import annotations

import re

from adapters.telemetry import names, traces
from adapters.telemetry.log import ENDS, MOST_LINES
from domain.telemetry import Change
from tests.docs.test_documents import ROOT

PAGE = (ROOT / "docs/traces-and-logs.md").read_text(encoding="utf-8")
LOG = (ROOT / "adapters/telemetry/log.py").read_text(encoding="utf-8")


def test_every_line_about_a_job_is_on_the_page_and_no_other():
    told = {
        said
        for row in re.findall(r"^\| (`[^|]*) \|", PAGE, re.M)
        for said in re.findall(r"`((?:jobs?|run) [a-z ]+)`", row)
    }
    fixed = set(re.findall(r'"((?:jobs?|run) [a-z ]+)"', LOG))
    assert told == fixed | {*ENDS.values()} | {f"job {change}" for change in Change}


def test_the_page_says_how_large_a_batch_gets_one_line():
    assert f"a batch of more than {MOST_LINES} is stored" in PAGE


def test_every_attribute_of_a_run_or_a_call_is_on_the_page():
    apart = {
        names.JOBS,
        names.BATCH_ID,
        names.AUDIO_SECONDS,
        names.PROFILE,
        names.METHOD,
        names.ROUTE,
        names.STATUS_CODE,
    }
    every = {value for name, value in vars(names).items() if name.isupper()}
    assert {attribute for attribute in every - apart if f"`{attribute}`" not in PAGE} == set()


def test_the_page_says_how_long_an_ending_process_waits_for_a_collector():
    assert f"waits for it for {traces.SENT_WITHIN:g} seconds at most" in PAGE

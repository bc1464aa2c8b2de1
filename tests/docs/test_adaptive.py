"""What the page says of the rule, held to the code."""

from __future__ import annotations

from pathlib import Path

from app import configfile
from domain import adaptive
from domain.policy import QueuePolicy
from tests.docs.test_documents import ROOT, blocks

PAGE = " ".join((ROOT / "docs/adaptive.md").read_text().split())


def test_the_file_that_is_shown_makes_the_queue_adaptive(tmp_path: Path):
    [toml] = blocks("docs/adaptive.md", "toml")
    (path := tmp_path / "configuration.toml").write_text(toml)
    assert configfile.read(path).policies.queues == {"gpu.llm": QueuePolicy(concurrency=64, adaptive=True)}


def test_the_figures_of_the_page_are_those_of_the_rule():
    assert f"the limit begins at {adaptive.START} " in PAGE
    assert (adaptive.GROWTH, "a quarter more, at least 1" in PAGE) == (1.25, True)
    assert (adaptive.DECREASE, "a fifth less" in PAGE) == (0.8, True)
    assert (adaptive.STEEPEST_DECREASE, "at most by half" in PAGE) == (0.5, True)
    assert (adaptive.TOLERANCE, "more than a tenth of what runs waits" in PAGE) == (0.1, True)
    assert f"every {adaptive.PROBE_WAIT.seconds} s" in PAGE
    assert f"up to {adaptive.LONGEST_PROBE_WAIT.seconds // 60} min" in PAGE

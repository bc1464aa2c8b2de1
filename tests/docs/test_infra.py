"""What the documents say of the machines behind the model servers, and of health, is what the service tells."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

from app.settings import from_env
from app.wire import examples
from app.wire.infra import ContainerView, GpuView, ModelServerView, SpeechServerView, TargetView
from domain.infra import TargetKind
from domain.usecases.diagnose import FIGURES

ROOT = Path(__file__).parents[2]
INFRA = (ROOT / "docs/infra.md").read_text()
HEALTH = (ROOT / "docs/api.md").read_text().partition("\n## Health\n")[2].partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """The names in the first column of each row of its tables."""
    return [re.findall(r"`(\w+)`", row) for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)]


def test_the_answer_that_is_shown_is_an_answer_of_the_api():
    [shown] = re.findall(r"```json\n(.*?)```", INFRA, re.DOTALL)

    assert json.loads(shown) == json.loads(msgspec.json.encode(examples.INFRA))


def test_every_kind_of_target_is_documented_and_no_other():
    section = INFRA.partition("## Set up")[2].partition("```")[0]

    assert [name for names in rows(section) for name in names] == [
        TargetKind.DCGM,
        TargetKind.NVIDIA_SMI,
        TargetKind.CADVISOR,
        TargetKind.VLLM,
        TargetKind.SPEECH,
    ]


def test_the_targets_that_are_shown_can_be_used():
    [shown] = re.findall(r"^INFRA_TARGETS=(.*)$", INFRA, re.MULTILINE)

    assert {target.kind for target in from_env({"INFRA_TARGETS": shown}).infra.targets} == {*TargetKind} - {
        TargetKind.NVIDIA_SMI
    }


@pytest.mark.parametrize(
    ("beginning", "view"),
    [
        ("## What it shows", TargetView),
        ("**A GPU**", GpuView),
        ("**A container**", ContainerView),
        ("**A model**", ModelServerView),
        ("**A speech server**", SpeechServerView),
    ],
)
def test_every_figure_is_documented_and_no_other(beginning: str, view: type[msgspec.Struct]):
    section = re.split(r"\n\*\*|\n## ", INFRA.partition(beginning)[2])[0]

    assert [name for names in rows(section) for name in names] == list(view.__struct_fields__)


def test_every_error_is_documented():
    table = re.findall(r"^\| (It.*?) \|", INFRA, re.MULTILINE)
    source = "".join(module.read_text() for module in (ROOT / "adapters/infra").glob("*.py"))
    said = [*re.findall(r'TargetTrouble\(\s*f?"(.*?)"', source), "It did not answer within {seconds} s."]
    assert len(said) > 10
    for text in said:
        pattern = r"\d+".join(re.escape(part) for part in re.split(r"{.*?}", text))
        assert any(re.fullmatch(pattern, documented) for documented in table), text


def test_every_component_and_its_figures_are_documented_and_no_other():
    documented = {
        component: tuple(re.findall(r"`(\w+)`", figures.replace("`RABBITMQ_MANAGEMENT_URL`", "")))
        for component, figures in re.findall(r"^\| `(\w+)` \|.*\| (.*?) \|$", HEALTH, re.MULTILINE)
    }

    assert documented == FIGURES

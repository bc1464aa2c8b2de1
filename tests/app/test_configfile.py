"""The configuration file: how it reads, and what is said of one that cannot be used."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app import configfile
from domain.errors import StartupError
from domain.identity import NAME
from domain.job import JobStatus
from domain.policy import OwnerPolicy, Policies, QueuePolicy, TaskPolicy

SECRET = "sk-hunter2"

WHOLE: dict[str, Any] = {
    "provider": "lmstudio",
    "lmstudio": {"base_url": "https://lm:1234/v1", "api_key": SECRET, "model": "gemma", "ssl_verify": False},
    "ollama": {"api_key": SECRET},
    "anthropic": {"api_key": SECRET},
    "profiles": [{"name": "bge", "kind": "embeddings", "api_key": SECRET}],
    "queues": {
        "gpu.llm": {"concurrency": 8, "preempt": True, "reserved_share": 0.1, "ageing": "1h30m", "adaptive": True},
        "gpu.speech": {},
    },
    "owners": {
        "sales/eu": {"weight": 3, "max_pending": 10_000, "max_running": 4},
        "me": {"weight": 0.5, "retention": {"completed": "7d", "failed": "forever", "cancelled": None}},
    },
    "task_types": {"call_analysis": {"max_run_time": "90s"}},
}

POLICIES = Policies(
    queues={
        "gpu.llm": QueuePolicy(8, preempt=True, reserved_share=0.1, ageing=timedelta(minutes=90), adaptive=True),
        "gpu.speech": QueuePolicy(),
    },
    owners={
        "sales/eu": OwnerPolicy(3, max_pending=10_000, max_running=4),
        "me": OwnerPolicy(0.5, retention={JobStatus.COMPLETED: timedelta(days=7), JobStatus.FAILED: None}),
    },
    task_types={"call_analysis": TaskPolicy(timedelta(seconds=90))},
)


def stored(folder: Path, content: object, suffix: str = ".json") -> Path:
    """A file of this text, or of this document as JSON."""
    path = folder / f"config{suffix}"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def refusal(path: Path) -> str:
    """The line about a file that cannot be used, which must tell no secret."""
    with pytest.raises(StartupError) as refused:
        configfile.read(path)
    line = str(refused.value)
    assert re.fullmatch(rf"AI_SERVICE_CONFIG: '{path}' cannot be used; expected [^\n]+\.", line)
    assert "hunter2" not in line
    assert refused.value.__cause__ is None
    return line.partition("; expected ")[2].removesuffix(".")


def test_queues_owners_and_task_types_are_read(tmp_path: Path):
    assert configfile.read(stored(tmp_path, WHOLE)).policies == POLICIES


def test_toml_reads_the_same(tmp_path: Path):
    text = f"""
        provider = "lmstudio"
        lmstudio.api_key = "{SECRET}"
        [[profiles]]
        name = "bge"
        [queues."gpu.llm"]
        concurrency = 8
        preempt = true
        reserved_share = 0.1
        ageing = "1h30m"
        adaptive = true
        [queues]
        "gpu.speech" = {{}}
        [owners]
        "sales/eu" = {{weight = 3, max_pending = 10_000, max_running = 4}}
        me.weight = 0.5
        me.retention = {{completed = "7d", failed = "forever"}}
        [task_types.call_analysis]
        max_run_time = "90s"
    """
    assert configfile.read(stored(tmp_path, text, ".TOML")).policies == POLICIES


@pytest.mark.parametrize(("text", "suffix"), [("{}", ".json"), ("", ".toml"), ("# nothing yet\n", ".toml")])
def test_a_file_that_says_nothing_configures_nothing(text: str, suffix: str, tmp_path: Path):
    assert configfile.read(stored(tmp_path, text, suffix)).policies == Policies()


def test_null_is_as_if_the_field_was_left_out(tmp_path: Path):
    empty = dict.fromkeys(["concurrency", "preempt", "reserved_share", "ageing", "adaptive"])
    assert configfile.read(stored(tmp_path, {"queues": {"gpu": empty}})).policies == Policies(
        queues={"gpu": QueuePolicy()}
    )


@pytest.mark.parametrize(
    ("part", "field", "values"),
    [
        ("queues", "concurrency", [1, 10_000]),
        ("queues", "reserved_share", [0, 0.0, 0.25, 0.5]),
        ("owners", "weight", [0.001, 1, 1_000_000]),
        ("owners", "max_pending", [1, 1_000_000_000]),
        ("owners", "max_running", [1, 1_000_000_000]),
    ],
)
def test_a_number_is_good_up_to_its_bounds(part: str, field: str, values: list[float], tmp_path: Path):
    for value in values:
        policies = configfile.read(stored(tmp_path, {part: {"x": {field: value}}})).policies
        assert getattr(getattr(policies, part)["x"], field) == value


SLOTS = "queues.gpu.llm.concurrency to be a whole number from 1 to 10000"
SHARE = "queues.gpu.llm.reserved_share to be a number from 0 to 0.5"
AGEING = "queues.gpu.llm.ageing to be a duration "
WEIGHT = "owners.me.weight to be a number from 0.001 to 1000000"
PENDING = "owners.me.max_pending to be a whole number from 1 to 1000000000"
RETENTION = "owners.me.retention to be " + configfile.RETENTION
RUN_TIME = "task_types.t.max_run_time to be a duration "
IN_QUOTES = 'in quotes, such as "30s", "5m" or "1h30m"'
SUCH_AS = "such as 500ms, 2s, 5m, 1h30m or 30d"
QUEUE_FIELDS = "one of concurrency, preempt, reserved_share, ageing, adaptive"


def queue(**fields: Any) -> dict[str, Any]:
    return {"queues": {"gpu.llm": fields}}


def owner(**fields: Any) -> dict[str, Any]:
    return {"owners": {"me": fields}}


BAD_VALUES: list[tuple[Any, str, list[Any]]] = [
    (lambda value: queue(concurrency=value), SLOTS, [0, -1, 10_001, 10**30, 4.5, 4.0, "4", True, [], SECRET]),
    (lambda value: queue(preempt=value), "queues.gpu.llm.preempt to be true or false", [1, "true", SECRET]),
    (lambda value: queue(adaptive=value), "queues.gpu.llm.adaptive to be true or false", ["yes", 0]),
    (lambda value: queue(reserved_share=value), SHARE, [-0.1, 0.51, 1, 10**400, True, "0.1", SECRET]),
    (lambda value: queue(reserved_share=float(value)), SHARE, ["nan", "inf", "-inf"]),
    (lambda value: queue(ageing=value), AGEING + IN_QUOTES, [30, 0.5, True, ["30s"], {"s": SECRET}]),
    (lambda value: queue(ageing=value), AGEING + SUCH_AS, ["", "30", "PT30S", "-30s", " 30s", SECRET]),
    (lambda value: queue(ageing=value), AGEING + "above zero", ["0s", "0.0001ms"]),
    (lambda value: queue(ageing=value), AGEING + "of at most 3650d", ["4000d"]),
    (lambda value: owner(weight=value), WEIGHT, [0, 0.0009, 1_000_001, "3", False, SECRET]),
    (lambda value: owner(max_pending=value), PENDING, [0, 1.0, 10**9 + 1, SECRET]),
    (lambda value: owner(max_running=value), PENDING.replace("pending", "running"), [0]),
    (lambda value: owner(retention=value), RETENTION, ["7d", ["7d"], {"running": "7d"}, {SECRET: "7d"}]),
    (lambda value: owner(retention={"failed": value}), RETENTION, [7, "0s", "7", "", True, [], {}, SECRET]),
    (lambda value: {"task_types": {"t": {"max_run_time": value}}}, RUN_TIME + IN_QUOTES, [90]),
    (lambda value: {"task_types": {"t": {"max_run_time": value}}}, RUN_TIME + "above zero", ["0s"]),
]


@pytest.mark.parametrize(("content", "expected", "values"), BAD_VALUES, ids=[each[1] for each in BAD_VALUES])
def test_of_a_bad_value_its_place_and_what_is_expected_are_told(
    content: Callable[[Any], Any], expected: str, values: list[Any], tmp_path: Path
):
    for value in values:
        assert refusal(stored(tmp_path, content(value))) == expected


TOP = "one of queues, owners, task_types, profiles, provider, lmstudio, ollama, anthropic"
BAD_PLACES: list[tuple[Any, str]] = [
    (queue(concurency=4), f"queues.gpu.llm.concurency to be {QUEUE_FIELDS} (did you mean concurrency?)"),
    (queue(speed=4), f"queues.gpu.llm.speed to be {QUEUE_FIELDS}"),
    (queue(api_key=SECRET), f"queues.gpu.llm.api_key to be {QUEUE_FIELDS}"),
    (queue(ageing="1m", **{SECRET: 1}), f"field 2 of queues.gpu.llm to be {QUEUE_FIELDS}"),
    (
        owner(max_pendin=4),
        "owners.me.max_pendin to be one of weight, max_pending, max_running, retention (did you mean max_pending?)",
    ),
    ({"task_types": {"t": {"timeout": "1s"}}}, "task_types.t.timeout to be one of max_run_time"),
    ({"quues": {}}, f"quues to be {TOP} (did you mean queues?)"),
    ({"api_key": SECRET}, f"api_key to be {TOP}"),
    ({"ollama": {"api_key": f"“{SECRET}”"}}, "ollama.api_key to be ASCII text"),
    ({"queues": {}, SECRET: {}}, f"key 2 to be {TOP}"),
    ({"queues": [{"name": "gpu.llm"}]}, "queues to be a table that has a table for each name"),
    ({"owners": SECRET}, "owners to be a table that has a table for each name"),
    ({"task_types": None}, "task_types to be a table that has a table for each name"),
    ({"queues": {"gpu.llm": 4}}, f"queues.gpu.llm to be a table of any of {QUEUE_FIELDS.removeprefix('one of ')}"),
    ({"owners": {"me": SECRET}}, "owners.me to be a table of any of weight, max_pending, max_running, retention"),
    (
        {"owners": {"me": {}, f"{SECRET} {SECRET}": {}}},
        "name 2 of owners to be a letter or digit, then up to 99 letters, digits or ._:/@+-",
    ),
    ([WHOLE], "a table of any of queues, owners, task_types, profiles, provider, lmstudio, ollama, anthropic"),
    (None, "a table of any of queues, owners, task_types, profiles, provider, lmstudio, ollama, anthropic"),
]


@pytest.mark.parametrize(("content", "expected"), BAD_PLACES, ids=lambda each: str(each)[:60])
def test_what_does_not_belong_there_is_refused_with_its_place(content: Any, expected: str, tmp_path: Path):
    assert refusal(stored(tmp_path, content)) == expected


def test_a_name_whose_dot_is_not_quoted_is_explained(tmp_path: Path):
    path = stored(tmp_path, "[queues.gpu.llm]\nconcurrency = 4", ".toml")
    assert refusal(path) == 'queues.gpu.llm to be a field; a name with a dot is quoted: [queues."gpu.llm"]'


@pytest.mark.parametrize("name", ["", "-x", "x y", "x\n", "é", "a" * 101])
def test_what_is_no_name_is_refused(name: str, tmp_path: Path):
    for part in configfile.SHARING:
        assert refusal(stored(tmp_path, {part: {name: {}}})).startswith(f"name 1 of {part} to be ")


BAD_FILES = [
    (".json", "", "valid JSON (line 1, column 1)"),
    (".json", f'{{\n  "{SECRET}": {SECRET}\n}}', "valid JSON (line 2, column 17)"),
    (".json", '{"queues": ' + "9" * 5000 + "}", "valid JSON"),
    (".json", "[" * 100_000, "valid JSON"),
    (".json", '{"queues": {}, "queues": {}}', "every key once in its table"),
    (".json", f'{{"ollama": {{"api_key": "{SECRET}", "api_key": ""}}}}', "every key once in its table"),
    (".toml", f'api_key = "{SECRET}', "valid TOML with every key once (end of document)"),
    (".toml", "[queues.a]\n[queues.a]", "valid TOML with every key once (line 2, column 10)"),
    (".yaml", "queues: {}", "a file whose name ends in .json or .toml"),
    ("", "{}", "a file whose name ends in .json or .toml"),
]


@pytest.mark.parametrize(("suffix", "text", "expected"), BAD_FILES)
def test_of_a_bad_file_its_place_and_what_is_expected_are_told(suffix: str, text: str, expected: str, tmp_path: Path):
    assert refusal(stored(tmp_path, text, suffix)) == expected


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path):
    assert refusal(tmp_path / "config.json") == "a file that can be read (No such file or directory)"
    (tmp_path / "folder.json").mkdir()
    assert refusal(tmp_path / "folder.json") == "a file that can be read (Is a directory)"
    (tmp_path / "bytes.json").write_bytes(b'{"queues": "\xff"}')
    assert refusal(tmp_path / "bytes.json") == "text in UTF-8"


def test_one_that_need_not_be_there_says_nothing(tmp_path: Path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "config.json", tmp_path / "folder" / "config.json", tmp_path / "file" / "config.json"):
        assert configfile.read(path, required=False).policies == Policies()


def test_one_that_need_not_be_there_but_is_must_be_in_order(tmp_path: Path):
    (folder := tmp_path / "config.json").mkdir()
    with pytest.raises(StartupError, match="Is a directory"):
        configfile.read(folder, required=False)
    with pytest.raises(StartupError, match="valid JSON"):
        configfile.read(stored(tmp_path, "{", ".JSON"), required=False)


# Secrets stand in any value, and as keys where keys are not names of things, which are told.
words = st.sampled_from(["1m", "0s", "true", ""]) | st.text(max_size=5)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | words | st.just(SECRET)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=8
)
names = st.from_regex(NAME, fullmatch=True).filter(lambda name: "hunter2" not in name) | st.just("gpu.llm")


GOOD: dict[str, Any] = {
    "concurrency": 4,
    "preempt": True,
    "reserved_share": 0.25,
    "ageing": "1h30m",
    "adaptive": None,
    "weight": 3,
    "max_pending": 1000,
    "max_running": 1,
    "retention": {"completed": "7d", "failed": "forever"},
    "max_run_time": "5m",
    "kind": "speech",
    "provider": "vllm",
    "base_url": "https://gpu:8000/v1",
    "api_key": SECRET,
    "api_key_env": None,
    "model": "Qwen/Qwen3-8B",
    "ssl_verify": False,
    "ca_bundle": "/etc/ssl/own.pem",
    "queue": "gpu.llm",
    "timeout": "5m",
    "fallbacks": ["other"],
    "num_ctx": 8192,
    "max_tokens": 4096,
    "max_file_bytes": 1_000_000,
    "max_file_length": "10m",
}


def tables(fields: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """A part of the file: entries in order, and some that are not."""
    good = st.fixed_dictionaries({}, optional={name: st.just(GOOD[name]) for name in fields})
    odd = st.dictionaries(st.sampled_from([*fields, SECRET, "concurency"]), values, max_size=2)
    entries = st.dictionaries(names, good, max_size=3)
    return entries | entries | st.dictionaries(names | st.just(f"{SECRET} {SECRET}"), good | odd | values) | values


parts = {
    "queues": tables(configfile.QUEUE),
    "owners": tables(configfile.OWNER),
    "task_types": tables(configfile.TASK),
    "profiles": tables(configfile.PROFILE),
    "provider": values,
    "ollama": st.just({"api_key": SECRET}) | st.dictionaries(st.sampled_from([*configfile.ENDPOINT]), values),
}
documents = (
    st.fixed_dictionaries({}, optional=parts) | st.fixed_dictionaries({}, optional={**parts, SECRET: values}) | values
)


@settings(max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(document=documents)
@example(document=WHOLE)
def test_whatever_the_file_holds_it_is_read_or_refused_in_one_line_without_a_secret(document: Any, tmp_path: Path):
    path = stored(tmp_path, document)
    try:
        read = configfile.read(path)
    except StartupError:
        refusal(path)
    else:
        _must_be_in_order(read.policies)
        assert "hunter2" not in repr(read)


def _must_be_in_order(policies: Policies) -> None:
    for queue in policies.queues.values():
        assert queue.concurrency is None or 1 <= queue.concurrency <= 10_000
        assert 0 <= queue.reserved_share <= 0.5
        assert queue.ageing is None or queue.ageing > timedelta(0)
        assert {type(queue.preempt), type(queue.adaptive)} == {bool}
    for owner in policies.owners.values():
        assert owner.weight is None or 0.001 <= owner.weight <= 1_000_000
        assert owner.max_pending is None or owner.max_pending >= 1
        assert owner.max_running is None or owner.max_running >= 1
    for task in policies.task_types.values():
        assert task.max_run_time is None or task.max_run_time > timedelta(0)
    for name in (*policies.queues, *policies.owners, *policies.task_types):
        assert re.fullmatch(NAME, name)

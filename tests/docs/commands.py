"""docs/reference-cli.md: every command, as its `--help` says it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from app.cli import cli
from tests.docs.markdown import code, fenced, paragraphs, table

PROGRAM = "ai-service"


def page() -> str:
    root: Any = get_command(cli)
    return paragraphs(
        "# Commands",
        "*Written from the code by `make reference`.*",
        f"`{PROGRAM} COMMAND --help` says the same. [The command line](cli.md) shows how callers use it, "
        "[operations](operations.md) what the processes do; settings come from [variables](configuration.md).",
        *_told(root, root.make_context(PROGRAM, [], resilient_parsing=True)),
    )


def _told(command: Any, context: Any) -> Iterator[str]:
    """The commands below this one, each before its own subcommands."""
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        inner = type(context)(below, info_name=name, parent=context)
        yield _section(below, inner)
        if hasattr(below, "list_commands"):
            yield from _told(below, inner)


def _section(command: Any, context: Any) -> str:
    said, _, example = (command.help or "").partition("Example: ")
    rows = [_row(each, context) for each in command.params]
    return paragraphs(
        f"## {context.command_path}",
        said,
        fenced("text", _usage(command, context)),
        table(["argument or option", "does"], [row for row in rows if row]) if any(rows) else "",
        _example(example or command.epilog or ""),
    )


def _usage(command: Any, context: Any) -> str:
    pieces = (piece.upper().strip("{}") for piece in command.collect_usage_pieces(context))
    return " ".join([context.command_path, *pieces])


def _row(parameter: Any, context: Any) -> tuple[str, str] | None:
    if parameter.param_type_name == "argument":
        return code(parameter.metavar or parameter.name.upper()), parameter.help or ""
    record = parameter.get_help_record(context)  # None where it is hidden
    return (code(record[0]), record[1]) if record else None


def _example(text: str) -> str:
    return fenced("bash", text.removeprefix("Example: ")) if text else ""

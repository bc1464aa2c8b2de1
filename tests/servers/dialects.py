"""How model servers of different makes say the same: for a `ModelServer` to do."""

from __future__ import annotations

import json
from typing import Any

from tests.servers.model_server import JSON, MODEL, Behaviour, Reply, Request, refuses, says, streams, words

LINES = "application/x-ndjson"

ANTHROPIC_STOPS = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"}


def event(kind: str, **fields: object) -> bytes:
    """One event of Anthropic's stream."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def text_delta(text: str) -> bytes:
    return event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})


def message_start(model: str = MODEL, **usage: int) -> bytes:
    message: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "usage": {"input_tokens": 3, "output_tokens": 1, **usage},
    }
    return event("message_start", message=message)


def message_end(stop_reason: str = "end_turn", tokens: int = 1) -> list[bytes]:
    return [
        event("content_block_stop", index=0),
        event("message_delta", delta={"stop_reason": stop_reason}, usage={"output_tokens": tokens}),
        event("message_stop"),
    ]


def anthropic_stream(text: str, model: str = MODEL, stop_reason: str = "end_turn") -> list[bytes]:
    """The events of a message."""
    return [
        message_start(model),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        event("ping"),
        *(text_delta(word) for word in words(text)),
        *message_end(stop_reason, len(text.split())),
    ]


def anthropic_message(text: str, model: str = MODEL, stop_reason: str = "end_turn") -> dict[str, Any]:
    """A message in one piece."""
    return {
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [{"type": "text", "text": text}],
        "stop_reason": stop_reason,
        "usage": {"input_tokens": 3, "output_tokens": len(text.split())},
    }


def line(content: str | None = None, *, model: str = MODEL, done: bool = False, **fields: object) -> bytes:
    """One line of Ollama's stream."""
    message = {} if content is None else {"message": {"role": "assistant", "content": content}}
    return json.dumps({"model": model, **message, "done": done, **fields}).encode() + b"\n"


def last_line(text: str, model: str = MODEL, done_reason: str = "stop") -> bytes:
    counts = {"prompt_eval_count": 3, "eval_count": len(text.split())}
    return line("", model=model, done=True, done_reason=done_reason, **counts)


def ollama_stream(text: str, model: str = MODEL, done_reason: str = "stop") -> list[bytes]:
    """The lines of a chat."""
    return [*(line(word, model=model) for word in words(text)), last_line(text, model, done_reason)]


def anthropic_says(text: str, *, model: str = MODEL, finish_reason: str = "stop") -> Behaviour:
    return streams(*anthropic_stream(text, model, ANTHROPIC_STOPS[finish_reason]))


def ollama_says(text: str, *, model: str = MODEL, finish_reason: str = "stop") -> Behaviour:
    return streams(*ollama_stream(text, model, finish_reason), content_type=LINES)


def openai_says(text: str, *, model: str = MODEL, finish_reason: str = "stop") -> Behaviour:
    return says(text, model=model, finish_reason=finish_reason)


SAYS = {"openai": openai_says, "anthropic": anthropic_says, "ollama": ollama_says}


def embeds(dimensions: int = 3) -> Behaviour:
    """Answers with one vector to each text: its length, then zeros."""

    async def behave(request: Request, reply: Reply) -> None:
        texts = request.json["input"]
        vectors = [[float(len(text)), *[0.0] * (dimensions - 1)] for text in texts]
        await reply.whole(200, json.dumps(embeddings(*vectors)).encode(), JSON)

    return behave


def embeddings(*vectors: list[float], model: str = MODEL) -> dict[str, Any]:
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    usage = {"prompt_tokens": 2 * len(vectors), "total_tokens": 2 * len(vectors)}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def lists(*models: dict[str, Any]) -> Behaviour:
    """Answers with these models."""
    return refuses(200, {"object": "list", "data": models})

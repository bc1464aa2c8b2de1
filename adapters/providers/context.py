"""How much a model can read and write at once, and what is done where a request is more than that.

A prompt is never shortened. Nothing is refused on a guess: only on a server's own count, or where even the fewest
tokens that a prompt can have are too many.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any

import httpx
import msgspec
from msgspec import Struct

from adapters.providers.client import bearer, below, beside, look
from domain.chat import ChatRequest, Message
from domain.errors import ErrorCode, RunFailed

PATIENCE = timedelta(seconds=2)
COUNTING_PATIENCE = timedelta(seconds=10)
LIMIT_KEPT = 300.0
IGNORANCE_KEPT = 60.0
"""Seconds."""

CERTAINLY_FITS = 2_048
"""Bytes. A token stands for at least one, and no model in use reads fewer tokens than this."""

LONGEST_TOKEN = 128
"""Characters. The longest entries of the vocabularies in use (those of OpenAI, Llama, Qwen, Mistral, Gemma, DeepSeek)
are runs of 128 blanks; of other characters none is longer.
"""

LONGEST_COUNT = 16 << 20
"""Bytes: a server that counts names every token."""

WORTH_COUNTING = 3
"""Bytes of text to each token of context, from which on the server is asked to count: most texts have three to five."""


class Limit(Struct, frozen=True):
    """What a server tells of its model's context."""

    tokens: int | None = None
    counts: bool = False
    """It can tell how many tokens a prompt has."""


Learn = Callable[[], Awaitable[Limit]]
Count = Callable[[list[Message]], Awaitable[int | None]]


async def knows_nothing() -> Limit:
    """For a server that tells nothing."""
    return Limit()


async def counts_nothing(messages: list[Message]) -> int | None:
    """For a server that does not count."""
    return None


class ContextWindow:
    """One model's context at one server: asked for when it is first needed, then known for five minutes.

    Args:
        configured: in tokens; believed until the server has told.
        learn: asks the server; that it fails is no failure.
        count: has the server count a prompt's tokens, where its limit says that it can.
    """

    def __init__(
        self,
        configured: int | None = None,
        *,
        learn: Learn = knows_nothing,
        count: Count = counts_nothing,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = Limit(configured)
        self._learn = learn
        self._count = count
        self._monotonic = monotonic
        # A lock, and no task of its own: when the one who asks is cancelled, the next in line asks anew.
        self._asking = asyncio.Lock()
        self._until = float("inf") if learn is knows_nothing else float("-inf")

    @property
    def known(self) -> int | None:
        """In tokens, as far as it has been learnt."""
        return self._limit.tokens

    async def tokens(self) -> int | None:
        """In tokens; None where the server does not tell."""
        return (await self._latest()).tokens

    async def check(self, request: ChatRequest) -> None:
        """See that the prompt may fit, without a GPU.

        Raises:
            RunFailed: `context_length`: it surely does not.
        """
        size = sum(len(text.encode(errors="replace")) for text in _texts(request.messages))
        if size <= CERTAINLY_FITS:
            return
        limit = await self._latest()
        if limit.tokens is None:
            return
        # Looked at more closely only where there is so much of it that it may be too much.
        found = fewest_tokens(request.messages) if size > LONGEST_TOKEN * (limit.tokens - 1) else 0
        if found < limit.tokens and limit.counts and size >= WORTH_COUNTING * limit.tokens:
            found = await self._count(request.messages) or found
        # At least one token of an answer must fit too.
        if found >= limit.tokens:
            message = f"The prompt has at least {found} tokens; the model's context has {limit.tokens}."
            raise RunFailed(ErrorCode.CONTEXT_LENGTH, message)

    async def _latest(self) -> Limit:
        async with self._asking:
            if self._monotonic() >= self._until:
                self._limit = await self._learn()
                kept = IGNORANCE_KEPT if self._limit.tokens is None else LIMIT_KEPT
                self._until = self._monotonic() + kept
            return self._limit


def fewest_tokens(messages: list[Message]) -> int:
    """Fewer tokens than this a conversation cannot have, whatever the model.

    Counted are the characters that are not blank, for some tokenizers fold blanks; and only what the user said, for
    templates of chats may drop or shorten what comes from elsewhere.
    """
    said = sum(len("".join(text.split())) for text in _texts(each for each in messages if each.role == "user"))
    return -(-said // LONGEST_TOKEN)


def openai_window(client: httpx.AsyncClient, base_url: str, api_key: str, model: str) -> ContextWindow:
    """What vLLM, llama-server and LM Studio tell; others list their models without it."""
    headers = bearer(api_key)

    async def ask(url: str) -> Any:
        return await look(client, "GET", url, headers=headers, patience=PATIENCE)

    async def learn() -> Limit:
        found = _model(await ask(below(base_url, "models")), model)
        match found.get("owned_by"):
            case "vllm":
                return Limit(_size(found.get("max_model_len")), counts=True)
            case "llamacpp":
                return Limit(_of_slot(await ask(beside(base_url, "props"))))
            # LM Studio, whatever is loaded.
            case "organization_owner":
                loaded = _model(await ask(beside(base_url, "api/v0/models")), model)
                return Limit(_size(loaded.get("loaded_context_length")))
            case _:
                return Limit(_size(found.get("max_model_len")))

    async def count(messages: list[Message]) -> int | None:
        body = {"model": model, "messages": msgspec.to_builtins(messages)}
        answer = await look(
            client,
            "POST",
            beside(base_url, "tokenize"),
            headers=headers,
            patience=COUNTING_PATIENCE,
            body=body,
            longest=LONGEST_COUNT,
        )
        return _size(answer.get("count")) if isinstance(answer, dict) else None

    return ContextWindow(learn=learn, count=count)


def ollama_window(client: httpx.AsyncClient, url: str, api_key: str, model: str, num_ctx: int | None) -> ContextWindow:
    """What is asked for, else what stands in the model's own file, but never more than the model was trained with.

    Where neither is given Ollama chooses by the GPU's memory, and tells nobody.

    Args:
        url: of `/api/show`.
    """

    async def learn() -> Limit:
        shown = await look(client, "POST", url, headers=bearer(api_key), patience=PATIENCE, body={"model": model})
        known = (num_ctx or _of_file(shown), _trained(shown))
        return Limit(min((size for size in known if size), default=None))

    return ContextWindow(num_ctx, learn=learn)


def _model(listed: Any, name: str) -> dict[str, Any]:
    """What a server lists of the model; a server of one model answers to any name."""
    data = listed.get("data") if isinstance(listed, dict) else None
    models = [each for each in data if isinstance(each, dict)] if isinstance(data, list) else []
    found = [each for each in models if each.get("id") == name] or (models if len(models) == 1 else [])
    return found[0] if found else {}


def _of_slot(props: Any) -> int | None:
    """llama-server's context is shared out among its slots; this is that of one."""
    match props:
        case {"default_generation_settings": {"n_ctx": size}}:
            return _size(size)
        case _:
            return None


def _of_file(shown: Any) -> int | None:
    """What the model's own file asks for where the request does not."""
    parameters = str(shown.get("parameters", "")) if isinstance(shown, dict) else ""
    asked = re.search(r"^num_ctx\s+(\d{1,9})\s*$", parameters, re.MULTILINE)
    return int(asked[1]) if asked else None


def _trained(shown: Any) -> int | None:
    info = shown.get("model_info") if isinstance(shown, dict) else None
    return _size(info.get(f"{info.get('general.architecture')}.context_length")) if isinstance(info, dict) else None


def _size(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None


def _texts(messages: Iterable[Message]) -> Iterator[str]:
    for message in messages:
        if isinstance(message.content, str):
            yield message.content
        else:
            yield from (part["text"] for part in message.content if isinstance(part.get("text"), str))


N, X, Y = r"(?P<context>\d{1,9})", r"\d{1,9}", r"(?P<prompt>\d{1,9})"
REFUSALS = tuple(
    re.compile(pattern, re.IGNORECASE | re.DOTALL)
    for pattern in (
        # vLLM, newest first, then OpenAI.
        rf"maximum context length is {N} tokens.*requested {X} output tokens.*at least {Y} input tokens",
        rf"maximum context length is {N} tokens and your request has {Y} input tokens",
        rf"maximum context length is {N} tokens.*requested {X} tokens \({Y} in the messages",
        # Anthropic
        rf"exceed context limit: {Y} \+ {X} > {N}",
        # llama-server, in fields of its own
        rf'"n_prompt_tokens":\s*{Y}\s*,\s*"n_ctx":\s*{N}',
    )
)

SHARE_KEPT_FREE = (64, 4)
"""Of the context, by resend. A server that says "at least" may have stopped counting where it was too much: the next
resend must leave far more room than the one before.
"""


def fitting(refusal: str, max_tokens: int, resends: int) -> int | None:
    """How long an answer may be so that it fits beside the prompt; None where that is not what was wrong.

    Args:
        refusal: what the server said: it must tell how much it takes and how much the prompt is.
        max_tokens: that were asked for.
        resends: that there were of this request.
    """
    if resends >= len(SHARE_KEPT_FREE):
        return None
    for pattern in REFUSALS:
        if found := pattern.search(refusal):
            context, prompt = int(found["context"]), int(found["prompt"])
            room = context - prompt - max(1, context // SHARE_KEPT_FREE[resends])
            return room if 0 < room < max_tokens else None
    return None

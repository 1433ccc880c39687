"""Reading and embedding through OpenAI's API: OpenAI itself, Azure, or anything that speaks it.

Nothing here retries: the job that asked knows when to ask again. What leaves this file is a value or a ModelError,
and no error repeats what was sent: endpoints quote prompts and keys in theirs, so causes are cut off on purpose.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, NamedTuple, TypeVar

import httpx2
import openai
from openai import APIStatusError, AsyncAPIResponse, AsyncAzureOpenAI, AsyncOpenAI, omit
from pydantic import BaseModel, Field, ValidationError

from memory_service import prompts
from memory_service.errors import BadModelOutput, ModelError, ModelRefused, ModelUnavailable, UnsafeStart
from memory_service.llm.base import Excerpt, Finding, Findings
from memory_service.values import Turn
from memory_service.whole import in_a_task

logger = logging.getLogger(__name__)

MAX_ANSWER_BYTES = 200_000
MAX_BODY_BYTES = 64_000_000
"""Of one HTTP answer, whatever it holds: 128 vectors of 8,192 numbers written out, with room to spare."""


def openai_client(api_key: str, base_url: str) -> AsyncOpenAI:
    """Make a client; an empty `base_url` is OpenAI itself, an empty key is for endpoints that ask for none.

    Push its `close` on the stack. Raises UnsafeStart.
    """
    try:
        return AsyncOpenAI(api_key=api_key or "none", base_url=base_url or "https://api.openai.com/v1", max_retries=0)
    except httpx2.InvalidURL as exc:
        raise UnsafeStart("OPENAI_BASE_URL is no URL") from exc


def azure_client(endpoint: str, api_key: str, api_version: str) -> AsyncAzureOpenAI:
    """Make a client whose model names are deployments. Push its `close` on the stack."""
    return AsyncAzureOpenAI(azure_endpoint=endpoint, api_key=api_key or "none", api_version=api_version, max_retries=0)


# Ways to ask for JSON, the best first; the prompt describes the shape for the others.
_FORMATS: tuple[Any, ...] = (
    {"type": "json_schema", "json_schema": {"name": "reflection", "strict": True, "schema": prompts.REFLECTION_SCHEMA}},
    {"type": "json_object"},
    omit,
)
_CONTENT_CODES = ("content_filter", "json_validate_failed")
"""Error codes of a model that failed on what it read, though the request was in order."""


# What endpoints answer. Checked here rather than by the client, whose objects may hold anything the endpoint sent.


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class Answered(BaseModel):
    """What every answer may hold."""

    usage: Any = None


class _Completion(Answered):
    choices: Annotated[list[_Choice], Field(min_length=1)]


_Body = TypeVar("_Body", bound="Answered")


class _Settings(NamedTuple):
    """Names of the settings to look at when an endpoint will not take what it is sent."""

    key: str
    model: str
    others: str


def settings_of(client: AsyncOpenAI, azure_model: str, openai_model: str) -> _Settings:
    if isinstance(client, AsyncAzureOpenAI):
        return _Settings("AZURE_OPENAI_API_KEY", azure_model, "AZURE_OPENAI_ENDPOINT and AZURE_OPENAI_API_VERSION")
    return _Settings("OPENAI_API_KEY", openai_model, "OPENAI_BASE_URL")


class Endpoint:
    """One model behind one client: bounded in time and size, counted, and its errors told in our words."""

    def __init__(self, timeout_s: float, settings: _Settings) -> None:
        self.timeout_s = timeout_s
        self.timeout = httpx2.Timeout(timeout_s, connect=min(5.0, timeout_s))
        self._settings = settings
        self.usage = {"calls": 0, "failures": 0, "prompt_tokens": 0}

    @asynccontextmanager
    async def question(self) -> AsyncIterator[None]:
        """Bound one question in time, and count it and whether it got a usable answer."""
        self.usage["calls"] += 1
        await in_a_task()
        try:
            with self._translated():
                async with asyncio.timeout(self.timeout_s):
                    yield
        except ModelError:
            self.usage["failures"] += 1
            raise

    async def fetch(self, request: AbstractAsyncContextManager[AsyncAPIResponse[Any]], shape: type[_Body]) -> _Body:
        """Send, read at most MAX_BODY_BYTES, check the shape, and count the tokens it reports."""
        async with request as response:
            body = bytearray()
            async for piece in response.iter_bytes():
                body += piece
                if len(body) > MAX_BODY_BYTES:
                    raise BadModelOutput(f"the model's answer is longer than {MAX_BODY_BYTES} bytes")
        try:
            answer = shape.model_validate_json(bytes(body))
        except ValidationError:
            raise BadModelOutput("the endpoint's answer is not of the shape of OpenAI's API") from None
        used = answer.usage if isinstance(answer.usage, dict) else {}
        for name in self.usage.keys() & {"prompt_tokens", "completion_tokens"}:
            count = used.get(name)
            self.usage[name] += count if isinstance(count, int) else 0
        return answer

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (TimeoutError, openai.APITimeoutError, httpx2.TimeoutException):
            raise ModelUnavailable(f"no whole answer from the model within {self.timeout_s} s") from None
        except APIStatusError as exc:
            raise self._refused(exc) from None
        except (openai.OpenAIError, httpx2.HTTPError) as exc:
            kind = type(exc.__cause__ or exc).__name__
            raise ModelUnavailable(f"no answer from the model ({kind}); check {self._settings.others}") from None
        except UnicodeError:
            raise ModelUnavailable(f"{self._settings.key} holds characters that cannot be sent") from None

    def _refused(self, exc: APIStatusError) -> ModelError:
        status, said = exc.status_code, f"the model's endpoint answered {exc.status_code}"
        if exc.code in _CONTENT_CODES:
            return BadModelOutput(f"{said} ({exc.code})")
        if status in (408, 409, 429) or status >= 500:
            return ModelUnavailable(said, _retry_after_s(exc.response.headers))
        key, model, others = self._settings
        if exc.code == "context_length_exceeded":
            return ModelRefused(f"{said}, more text than the model reads; check {model}")
        if status in (400, 413, 422):
            return ModelRefused(f"{said}; check {model}, {others}")
        return ModelUnavailable(f"{said}; check {key if status in (401, 403) else f'{model}, {others}'}")


class OpenAIReader:
    """Implements Reader. `timeout_s` is for one verb, whatever it takes to find the format an endpoint knows."""

    def __init__(self, client: AsyncOpenAI, model: str, *, timeout_s: float) -> None:
        self.name = model
        self.prompt_version = prompts.PROMPT_VERSION
        self._client = client
        self._endpoint = Endpoint(timeout_s, settings_of(client, "AZURE_OPENAI_DEPLOYMENT", "OPENAI_MODEL"))
        self._endpoint.usage["completion_tokens"] = 0
        self._format = 0

    async def reflect(self, excerpt: Excerpt) -> Findings:
        known = [memory.text for memory in excerpt.known]
        prompt = prompts.reflection(_said(excerpt.turns), excerpt.earlier_summary, known)
        async with self._endpoint.question():
            return _findings(_words(await self._in_json(prompt)), len(known))

    async def compact(self, earlier_summary: str, turns: Sequence[Turn]) -> str:
        prompt = prompts.compaction(earlier_summary, _said(turns))
        async with self._endpoint.question():
            return _words(await self._ask(prompt, omit))

    def usage(self) -> dict[str, int]:
        return dict(self._endpoint.usage)

    async def _in_json(self, prompt: prompts.Prompt) -> _Choice:
        """Ask in the best format the endpoint takes, and keep to the one that it took."""
        tried = self._format
        while True:
            try:
                answer = await self._ask(prompt, _FORMATS[tried])
            except APIStatusError as exc:
                if _FORMATS[tried] is omit or not _refuses_format(exc):
                    raise
                logger.info("response format refused", extra={"model": self.name, "format": _FORMATS[tried]["type"]})
                tried += 1
            else:
                self._format = max(self._format, tried)
                return answer

    async def _ask(self, prompt: prompts.Prompt, response_format: Any) -> _Choice:
        request = self._client.chat.completions.with_streaming_response.create(
            model=self.name,
            messages=[{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}],
            response_format=response_format,
            timeout=self._endpoint.timeout,
        )
        return (await self._endpoint.fetch(request, _Completion)).choices[0]


def _said(turns: Sequence[Turn]) -> list[prompts.Said]:
    return [
        prompts.Said(turn.seq, turn.created_at, message.role, message.name, message.content)
        for turn in turns
        for message in turn.messages
    ]


# What models that think aloud put before their answer, where the endpoint does not take it away.
_THINKING = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)


def _words(answer: _Choice) -> str:
    """Return what was answered, cleaned; never empty, cut short or too long."""
    if answer.message.refusal:
        raise BadModelOutput("the model refused to answer")
    if answer.finish_reason in ("length", "content_filter", "error"):
        raise BadModelOutput(f"the model's answer was cut short ({answer.finish_reason})")
    content = answer.message.content or ""
    if len(content.encode()) > MAX_ANSWER_BYTES:
        raise BadModelOutput(f"the model's answer is longer than {MAX_ANSWER_BYTES} bytes")
    words = _THINKING.sub("", content.replace("\x00", "")).strip()
    if not words:
        raise BadModelOutput("the model's answer is empty")
    return words


def _findings(answer: str, known: int) -> Findings:
    try:
        read = prompts.read_reflection(answer)
    except ValueError as exc:
        raise BadModelOutput(f"the model's answer {exc}") from None
    insights = tuple(
        Finding(
            text=insight.text,
            turns=tuple(insight.turns),
            category=insight.category,
            confidence=insight.confidence,
            importance=insight.importance,
            replaces=insight.replaces if insight.replaces and 0 < insight.replaces <= known else None,
            field=insight.field,
            value=insight.value,
        )
        for insight in read.insights
        if insight.text
    )
    return Findings(summary=read.summary, topics=tuple(filter(None, read.topics)), insights=insights)


_SPEAKS_OF_FORMAT = re.compile(r"response[_ ]format|json[_ ](schema|object|mode)|structured[_ ]output", re.IGNORECASE)


def _refuses_format(exc: APIStatusError) -> bool:
    """Say whether an endpoint turned down `response_format`, and nothing else about the request.

    A `param` decides alone: the message of another complaint may well quote a conversation about JSON.
    """
    if exc.status_code not in (400, 404, 422) or exc.code in (*_CONTENT_CODES, "context_length_exceeded"):
        return False
    if exc.param:
        return exc.param.startswith("response_format")
    said = exc.body.get("message", exc.body) if isinstance(exc.body, dict) else exc.body
    return bool(_SPEAKS_OF_FORMAT.search(f"{exc.code} {said}"[:2000]))


def _retry_after_s(headers: httpx2.Headers) -> float | None:
    """Read the wish of an endpoint, in either header; a date is taken from the endpoint's own clock."""
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            seconds = float(headers[name]) / unit
        except (KeyError, ValueError):
            continue
        if math.isfinite(seconds):
            return max(seconds, 0.0)
    try:
        until = parsedate_to_datetime(headers["retry-after"]) - parsedate_to_datetime(headers["date"])
    except (KeyError, ValueError, TypeError):
        return None
    return max(until.total_seconds(), 0.0)

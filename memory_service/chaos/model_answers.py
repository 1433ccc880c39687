"""What a good model answers, worked out by rule: from the prompt alone, knowing nothing of the service."""

from __future__ import annotations

import base64
import hashlib
import math
import re
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple


class Spoken(NamedTuple):
    """One message as a prompt shows it."""

    turn: int
    at: str
    name: str
    role: str
    text: str


def read_transcript(prompt: str) -> list[Spoken]:
    """Read the messages inside the last fence of a prompt, continuation lines joined."""
    fences = re.findall(r"^<conversation>\n(.*?)\n</conversation>$", prompt, re.DOTALL | re.MULTILINE)
    messages: list[Spoken] = []
    for line in fences[-1].split("\n") if fences else []:
        if head := _LINE.match(line):
            turn, at, role_alone, name, role, text = head.groups()
            messages.append(Spoken(int(turn), at, name or "", role or role_alone, text))
        elif messages:
            last = messages[-1]
            messages[-1] = last._replace(text=f"{last.text}\n{line.removeprefix('  ')}")
    return messages


_LINE = re.compile(
    r"\[(\d+)\] (\d{4}-\d\d-\d\d \d\d:\d\d) "
    r"(?:(user|assistant|system|tool)|([^:]+) \((user|assistant|system|tool)\)): (.*)"
)

_LASTING = {"i prefer": "preference", "i love": "preference", "my ": "fact"}


def reflect(spoken: list[Spoken]) -> dict[str, Any]:
    """Write one insight for each thing a user says about themself, quoting the turn it was said in."""
    turns = sorted({message.turn for message in spoken})
    insights = []
    for message in spoken:
        said = message.text.lower()
        category = next((kind for words, kind in _LASTING.items() if words in said), None)
        if message.role == "user" and category:
            insights.append(
                {
                    "text": f"{message.name or 'The user'} said: {message.text}",
                    "turns": [message.turn],
                    "category": category,
                    "confidence": 0.9,
                    "importance": 0.6,
                    "replaces": None,
                }
            )
    summary = f"A conversation of {len(turns)} turns ({turns[0]} to {turns[-1]})." if turns else "Nothing was said."
    return {"summary": summary, "topics": sorted({str(one["category"]) for one in insights}), "insights": insights}


def compact(spoken: list[Spoken]) -> str:
    turns = {message.turn for message in spoken}
    return f"So far {len(turns)} turns: " + " ".join(message.text for message in spoken)[:200]


def embed(text: str, dimensions: int) -> list[float]:
    """Embed a text as its hashed words, at unit length (zeros if it has no word)."""
    row = [0.0] * dimensions
    for word in re.findall(r"\w+", text.lower()):
        digest = hashlib.blake2b(word.encode(), digest_size=16).digest()
        for place in range(0, 16, 4):
            row[int.from_bytes(digest[place : place + 3], "big") % dimensions] += 1.0 if digest[place + 3] & 1 else -1.0
    norm = math.sqrt(sum(x * x for x in row)) or 1.0
    return [x / norm for x in row]


def encoded(texts: Sequence[str], dimensions: int, encoding: str | None) -> list[Any]:
    """Embed texts, as base64 of floats or as numbers."""
    rows = [embed(text, dimensions) for text in texts]
    if encoding != "base64":
        return list(rows)
    return [base64.b64encode(struct.pack(f"<{dimensions}f", *row)).decode() for row in rows]


def strict_problems(schema: Any, place: str = "$") -> list[str]:
    """Say what OpenAI's structured outputs would not accept in a schema."""
    if isinstance(schema, list):
        return [problem for at, part in enumerate(schema) for problem in strict_problems(part, f"{place}[{at}]")]
    if not isinstance(schema, dict):
        return []
    problems = []
    if schema.get("type") == "object" and isinstance(schema.get("properties"), dict):
        if schema.get("additionalProperties") is not False:
            problems.append(f"{place}: additionalProperties must be false")
        if sorted(schema.get("required", [])) != sorted(schema["properties"]):
            problems.append(f"{place}: every property must be required")
    refused = schema.keys() & {"default", "minimum", "maximum", "minLength", "maxLength", "format", "allOf", "oneOf"}
    problems += [f"{place}: {word} is not permitted" for word in sorted(refused)]
    return problems + [problem for key, part in schema.items() for problem in strict_problems(part, f"{place}.{key}")]

"""What a file of a user may say of each thing in it, so that all of it can be kept and told again. Pure.

A check raises ValidationFailed with the place it was given, in words that hold nothing of what was sent.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from memory_service.errors import MalformedJson, ValidationFailed
from memory_service.gateway import models
from memory_service.gateway.messages import kept_of
from memory_service.gateway.reading import Model, read
from memory_service.learned import document_of
from memory_service.limits import (
    MAX_NAME,
    MAX_SAFE_INTEGER,
    MAX_TEXT,
    check_exact,
    check_id,
    check_metadata,
    check_moment,
    check_name,
    check_no_nul,
    check_profile,
    check_tags,
    check_text,
)
from memory_service.parts import check_parts, parts_in, readable
from memory_service.stores.exports import Exported
from memory_service.values import OWN, PROFILE_ID, Effect, Memory, Message, Session, Sitting, Turn, Value, Vector

if TYPE_CHECKING:  # it takes a while to import
    import numpy as np
else:
    from memory_service.late import np

MAX_WRITTEN, MAX_MESSAGES = 1_000_000, 1000
"""Characters of what a model wrote; messages of a turn."""
LONGEST = 1.001
"""No number of a vector of unit length is greater, however it was rounded."""


def check_moments(place: str, value: Value) -> None:
    for name in value.__struct_fields__:
        if name.endswith(("_at", "_until", "_to")) and getattr(value, name) is not None:
            check_moment(f"{place}.{name}", getattr(value, name))


def _check_numbers(place: str, *ordered: int) -> None:
    """Each at least the one before."""
    if list(ordered) != sorted(ordered) or ordered[-1] >= MAX_SAFE_INTEGER:
        raise ValidationFailed(place, "its numbers do not go together")


def _check_written(place: str, text: str | None, most: int = MAX_WRITTEN) -> None:
    if text:
        check_text(place, text, most)


def _through_gateway(place: str, kind: type[Model], told: dict[str, Any]) -> Model:
    """As the gateway takes it, which is asked for it again."""
    check_no_nul(told, place)
    try:
        return read(kind, msgspec.json.encode(told))
    except (ValidationFailed, MalformedJson):
        raise ValidationFailed(place, "is not as the gateway would have taken it") from None


def check_session(place: str, session: Session) -> None:
    check_id(f"{place}.session_id", session.session_id)
    check_name(f"{place}.incarnation", session.incarnation)
    _check_written(f"{place}.agent_id", session.agent_id, MAX_NAME)
    if (session.status == "ended") != (session.ended_by is not None):
        raise ValidationFailed(f"{place}.ended_by", "does not fit the status")
    _check_written(f"{place}.cumulative_summary", session.cumulative_summary)
    _check_written(f"{place}.system_prompt", session.system_prompt, MAX_TEXT)
    if session.metadata is not None:
        _through_gateway(f"{place}.metadata", models.SessionContext, {"session_metadata": session.metadata})
    _check_numbers(place, 1, session.version, MAX_SAFE_INTEGER - 1)
    _check_numbers(place, 1, session.opened_at_seq, session.turn_count + 1)
    _check_numbers(place, 0, session.compacted_through, session.turn_count)
    _check_numbers(place, 0, session.handed_over_through, session.turn_count)
    _check_numbers(place, 0, session.replaced_through, session.turn_count)
    _check_numbers(place, 0, session.erased_through, session.turn_count)


def check_sitting(place: str, sitting: Sitting, turns: int) -> None:
    _check_numbers(place, 1, sitting.version, MAX_SAFE_INTEGER - 1)
    _check_numbers(place, 1, sitting.first_seq, sitting.through_seq, turns)
    _check_numbers(place, 0, sitting.reflected_through, sitting.through_seq)
    _check_numbers(place, 0, sitting.attempts)
    _check_numbers(place, 0, sitting.begun_anew)
    _check_numbers(place, 0, sitting.insights_count)
    _check_written(f"{place}.summary", sitting.summary)
    _check_written(f"{place}.last_error", sitting.last_error)
    if sitting.lease_until is not None:
        raise ValidationFailed(f"{place}.lease_until", "no claim can be brought along")


def check_effect(place: str, effect: Effect) -> None:
    check_id(f"{place}.session_id", effect.session_id)
    check_id(f"{place}.turn_id", effect.turn_id)


def check_turn(place: str, turn: Turn) -> None:
    check_id(f"{place}.session_id", turn.session_id)
    check_id(f"{place}.turn_id", turn.turn_id)
    if turn.withheld and (turn.messages or turn.metadata):
        raise ValidationFailed(f"{place}.withheld", "is of a turn that is told")
    turn = turn.told()
    if len(turn.messages) > MAX_MESSAGES:  # one whose words were erased has none
        raise ValidationFailed(f"{place}.messages", f"more than {MAX_MESSAGES}")
    for message in turn.messages:
        _check_message(f"{place}.messages", message)
        if message.said_at is not None:
            _check_said(f"{place}.messages", message)
        elif message.parts is not None:
            _check_parts(f"{place}.messages", message)
    check_metadata(f"{place}.metadata", turn.metadata)


def _check_message(place: str, message: Message) -> None:
    check_text(place, message.content)
    if message.name is not None:
        check_name(place, message.name)


def _check_said(place: str, message: Message) -> None:
    """That what came through the gateway is told there as it was."""
    whole = {"role": message.role} if message.parts is None else message.parts
    kept_of(_through_gateway(place, models.Message, {**whole, "timestamp": message.said_at}), place)


def _check_parts(place: str, message: Message) -> None:
    """That parts are such as may be sent, and what is read beside them is what can be read of them."""
    try:
        parts = parts_in(message.parts or {})
    except msgspec.ValidationError:
        raise ValidationFailed(place, "is not made of parts") from None
    check_no_nul(message.parts, place)
    check_parts(place, parts)
    if readable(parts) != message.content:
        raise ValidationFailed(place, "reads otherwise than its parts")


def check_memory(place: str, memory: Memory) -> None:
    if memory.kind not in OWN:
        raise ValidationFailed(f"{place}.kind", "is not of a user's own memory")
    _check_memory_names(place, memory)
    _check_rough(f"{place}.rough", memory)
    if memory.text or memory.valid_to is None:  # of one that was deleted only its id is kept
        check_text(f"{place}.text", memory.text)
    if not (0 <= memory.confidence <= 1 and 0 <= memory.importance <= 1):
        raise ValidationFailed(place, "confidence and importance are from 0 to 1")
    if memory.withheld and (memory.valid_to is None or not memory.text):
        raise ValidationFailed(f"{place}.withheld", "is of a memory that holds, or is no more")
    check_tags(f"{place}.tags", memory.tags)
    if memory.kind in ("memory", "episode"):
        check_metadata(f"{place}.metadata", memory.metadata)
        return
    check_exact(f"{place}.metadata", memory.metadata)  # ours, of what was read
    if memory.kind == "profile":
        _check_profile(place, memory)
    elif memory.kind == "summary" and memory.text:
        _check_summary(f"{place}.metadata", memory.metadata)


def _check_profile(place: str, memory: Memory) -> None:
    """Of one that was deleted only the version is kept."""
    version = memory.metadata.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValidationFailed(f"{place}.metadata", "has no version")
    if memory.is_deleted:
        return
    try:
        document = document_of(memory)
    except (msgspec.MsgspecError, RecursionError):
        raise ValidationFailed(f"{place}.text", "is not a JSON object") from None
    check_profile(f"{place}.text", document)


def _check_memory_names(place: str, memory: Memory) -> None:
    for name in ("memory_id", "session_id", "superseded_by", "repeated_by"):
        if getattr(memory, name) is not None:
            check_id(f"{place}.{name}", getattr(memory, name))
    if (memory.kind == "profile") != (memory.memory_id == PROFILE_ID):
        raise ValidationFailed(f"{place}.memory_id", "is that of the profile, or of none")
    for name in ("category", "model", "prompt_version"):
        if getattr(memory, name):
            check_name(f"{place}.{name}", getattr(memory, name))
    _check_written(f"{place}.agent_id", memory.agent_id, MAX_NAME)
    if memory.superseded_by == memory.memory_id:
        raise ValidationFailed(f"{place}.superseded_by", "is the memory itself")


def _check_rough(place: str, memory: Memory) -> None:
    if memory.rough is not None:
        _check_numbers(place, 0, memory.rough.attempts)
        for message in memory.rough.messages:
            _check_message(place, message)
            check_no_nul(message.parts, place)


class _Told(Struct):
    """What is told of a summary beside its text."""

    started_at: str
    topics: list[str]
    turn_count: int


def _check_summary(place: str, metadata: dict[str, Any]) -> None:
    try:
        told = msgspec.convert(metadata, _Told)
        check_moment(place, datetime.fromisoformat(told.started_at))
    except (msgspec.ValidationError, ValueError):
        raise ValidationFailed(place, "is not that of a summary") from None
    _check_numbers(place, 0, told.turn_count)


def check_vector(thing: Exported, vector: Vector) -> None:
    texts = len(thing.turn.messages) if thing.turn else 1
    if (vector.item_id, vector.token, vector.texts) != (thing.item_id, 0, texts):
        raise ValidationFailed("$.vector", "is of something else")
    check_name("$.vector.space", vector.space)
    if len(vector.data) % (4 * texts) if texts else vector.data:
        raise ValidationFailed("$.vector.data", "is not as long as its numbers")
    if not (abs(np.frombuffer(vector.data, np.float32)) <= LONGEST).all():  # which no NaN is
        raise ValidationFailed("$.vector.data", "holds what is no number of a vector of unit length")

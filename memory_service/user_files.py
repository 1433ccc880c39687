"""A user as a file: NDJSON that names its format, then one line a thing, then how many there were. Pure.

The same memory gives the same bytes, whatever store it comes from. A file is checked to its end before any of it is
used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import islice
from typing import Any, BinaryIO

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from memory_service.errors import ValidationFailed
from memory_service.limits import check_name, check_user_id
from memory_service.stores.exports import Exported
from memory_service.user_file_checks import (
    check_effect,
    check_memory,
    check_moments,
    check_session,
    check_sitting,
    check_turn,
    check_vector,
)
from memory_service.values import WHOLE, Memory, Request, Session, Sitting, Source, Turn, Value

FORMAT, VERSION = "agent-memory-user", 1
KINDS = ("session", "sitting", "request", "turn", "memory")
MAX_KEY = 255
"""Characters of a caller's name of a request."""

_encode = msgspec.json.Encoder().encode


class Head(Value, frozen=True, kw_only=True):
    """The first line. Numbers count up when a reader of the one before would misread a file."""

    format: str = FORMAT
    version: int = VERSION
    user_id: str


class Foot(Value, frozen=True, kw_only=True):
    """The last line: without it a file was cut off."""

    things: int


_head_of = msgspec.json.Decoder(Head).decode
_foot_of = msgspec.json.Decoder(Foot).decode
_thing_of = msgspec.json.Decoder(Exported).decode


def line_of(value: Value) -> bytes:
    return _encode(value) + b"\n"


class Consistent:
    """Lets through what belongs together, of what is read page by page while others write.

    What was written after a session's head was read is left out: its turns beyond the count, and what rests on them.
    """

    def __init__(self) -> None:
        self._turns: dict[str, int] = {}

    def of(self, thing: Exported) -> Exported | None:
        """The thing as it is told: no claim of a job that runs is; None if it came later than its session."""
        if thing.session is not None:
            self._turns[thing.session.session_id] = thing.session.turn_count
        elif thing.sitting is not None:
            known = self._holds(thing.sitting.session_id, thing.sitting.through_seq)
            return Exported(sitting=replace(thing.sitting, lease_until=None)) if known else None
        elif thing.turn is not None:
            return thing if self._holds(thing.turn.session_id, thing.turn.seq) else None
        elif thing.memory is not None:
            return thing if all(self._holds(one.session_id, one.seq) for one in thing.memory.sources) else None
        return thing

    def _holds(self, session_id: str, seq: int) -> bool:
        return seq <= self._turns.get(session_id, 0)


class UserFile:
    """A file that was found whole and right: `user_id`, `counts` of things by kind, and the things."""

    def __init__(self, file: BinaryIO) -> None:
        """Check it to its end. Raises ValidationFailed with the line."""
        self._file = file
        checked = _Checked()
        for number, line in enumerate(self._lines(), 1):
            checked.take(number, line)
        checked.finish()
        self.user_id, self.counts = checked.user_id, checked.counts

    def _lines(self) -> Iterator[bytes]:
        self._file.seek(0)
        return iter(self._file)

    def things(self) -> Iterator[Exported]:
        lines = self._lines()
        next(lines)
        for _ in range(sum(self.counts.values())):
            yield _thing_of(next(lines))

    def first(self, kinds: Sequence[str]) -> Iterator[Exported]:
        """Things of these kinds, which are the first of all."""
        return islice(self.things(), sum(self.counts[kind] for kind in kinds))

    def sessions(self) -> list[Session]:
        return [thing.session for thing in self.first(KINDS[:1]) if thing.session is not None]

    def digests(self) -> dict[tuple[str | int, ...], bytes]:
        """What tells each thing from another of its name."""
        return {thing.name: digest_of(thing) for thing in self.things()}


def digest_of(thing: Exported) -> bytes:
    """Of the thing itself: its vector can be computed anew."""
    return blake2b(_encode(replace(thing, vector=None)), digest_size=16).digest()


class _Of(Struct):
    """What has been seen of a session."""

    turns: int
    seqs: set[int] = field(default_factory=set)
    turn_ids: set[str] = field(default_factory=set)


class _Checked:
    """Reads a file line by line. All its checks raise ValidationFailed, in words that hold nothing of what was sent."""

    def __init__(self) -> None:
        self.user_id = ""
        self.counts = dict.fromkeys(KINDS, 0)
        self._number = 0
        self._ended = False
        self._last: tuple[int, tuple[str | int, ...]] = (0, ())
        self._sessions: dict[str, _Of] = {}

    def take(self, number: int, line: bytes) -> None:
        self._number = number
        try:
            self._take_head(_head_of(line)) if number == 1 else self._take_line(line)
        except ValidationFailed as exc:
            raise ValidationFailed(f"line {number} {exc.place}", exc.reason, exc.code) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise ValidationFailed(f"line {number}", "is damaged, or no line of such a file") from None

    def _take_line(self, line: bytes) -> None:
        if self._ended:
            raise ValidationFailed("$", "there is more behind the last line")
        if line.startswith(b'{"things":'):
            self._take_foot(_foot_of(line))
            return
        thing = _thing_of(line)
        self._take(thing)
        if line_of(thing) != line:
            raise ValidationFailed("$", "not as this service writes it: an unknown field, or another form")

    def finish(self) -> None:
        if not self._ended:
            raise ValidationFailed(
                f"line {self._number + 1}", "the file is cut off: its last line says how many there are"
            )
        for session in self._sessions.values():
            if len(session.seqs) != session.turns:
                raise ValidationFailed("$", "turns of a session are missing")

    def _take_head(self, head: Head) -> None:
        if head.format != FORMAT:
            raise ValidationFailed("$.format", f"is no file of a user: {FORMAT} is expected")
        if head.version != VERSION:
            raise ValidationFailed("$.version", f"this service reads version {VERSION}")
        self.user_id = check_user_id("$.user_id", head.user_id)

    def _take_foot(self, foot: Foot) -> None:
        if foot.things != sum(self.counts.values()):
            raise ValidationFailed("$.things", "there are not as many lines as it says")
        if not foot.things:
            raise ValidationFailed("$.things", "there is nothing in it")
        self._ended = True

    def _take(self, thing: Exported) -> None:
        kind = self._kind_of(thing)
        self.counts[kind] += 1
        place = KINDS.index(kind), thing.name
        if place[0] < self._last[0] or (place <= self._last and kind != "turn"):
            raise ValidationFailed(
                "$", "is not behind the one before: lines have an order, and each thing is there once"
            )
        self._last = place
        for value in (thing.session, thing.sitting, thing.request, thing.turn, thing.memory):
            if value is not None:
                self._check(value, f"$.{kind}")
        if thing.effect is not None:
            check_effect("$.effect", thing.effect)
        if thing.vector is not None:
            check_vector(thing, thing.vector)

    @staticmethod
    def _kind_of(thing: Exported) -> str:
        (kind, *more) = [kind for kind in KINDS if getattr(thing, kind) is not None] or [""]
        if not kind or more or (kind == "request") != (thing.effect is not None):
            raise ValidationFailed("$", "must be one thing")
        if thing.request is not None and thing.effect is not None and thing.request.digest != thing.effect.digest:
            raise ValidationFailed("$.effect", "is of another request")
        if thing.vector is not None and kind not in ("turn", "memory"):
            raise ValidationFailed("$.vector", "only turns and memories have vectors")
        return kind

    def _check(self, value: Session | Sitting | Request | Turn | Memory, place: str) -> None:
        check_moments(place, value)
        if isinstance(value, Session):
            check_session(place, value)
            self._sessions[value.session_id] = _Of(value.turn_count)
        elif isinstance(value, Sitting):
            check_sitting(place, value, self._turns_of(place, value.session_id))
        elif isinstance(value, Request):
            check_name(f"{place}.key", value.key, MAX_KEY)
            check_name(f"{place}.digest", value.digest)
        elif isinstance(value, Turn):
            check_turn(place, value)
            self._count_turn(place, value)
        else:
            check_memory(place, value)
            self._check_sources(f"{place}.sources", value.sources, 1)
            self._check_sources(f"{place}.withheld", value.withheld, WHOLE)

    def _check_sources(self, place: str, sources: Iterable[Source], least: int) -> None:
        for source in sources:
            if not least <= source.seq <= self._turns_of(place, source.session_id):
                raise ValidationFailed(place, "names a turn that is not in the file")

    def _turns_of(self, place: str, session_id: str) -> int:
        if session_id not in self._sessions:
            raise ValidationFailed(f"{place}.session_id", "names a session that is not in the file before it")
        return self._sessions[session_id].turns

    def _count_turn(self, place: str, turn: Turn) -> None:
        if not 1 <= turn.seq <= self._turns_of(place, turn.session_id):
            raise ValidationFailed(f"{place}.seq", "is not among the turns that its session counts")
        session = self._sessions[turn.session_id]
        if turn.seq in session.seqs or turn.turn_id in session.turn_ids:
            raise ValidationFailed(place, "is there twice")
        session.seqs.add(turn.seq)
        session.turn_ids.add(turn.turn_id)


def in_pages(things: Iterable[Exported], size: int) -> Iterator[list[Exported]]:
    page: list[Exported] = []
    for thing in things:
        page.append(thing)
        if len(page) == size:
            yield page
            page = []
    if page:
        yield page


def counted(counts: dict[str, int]) -> dict[str, Any]:
    """Counts by kind, under the names of several."""
    return {"memories" if kind == "memory" else f"{kind}s": count for kind, count in counts.items()}

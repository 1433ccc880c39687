"""A folder of texts made into knowledge: read, cut into pieces, sent to a running service."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from client import SyncMemoryServiceClient
from client.errors import InvalidRequest, KnowledgeNotFound
from memory_service.limits import MAX_TITLE
from memory_service.telling import Document

SUFFIXES = (".md", ".txt")
PIECE_CHARACTERS = 2_000
"""About so long is a piece at most: three of them fit the share that knowledge has of a context."""

_ENDS = tuple(re.compile(end) for end in (r"\n[ \t]*\n\s*", r"\n", r"[.!?…][\"')\]]*\s+|[。！？]", r"\s+"))
"""Where a text is cut, the best place first: behind a paragraph, a line, a sentence, a word."""
_HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+(.*)$", re.MULTILINE)


class Unusable(Exception):
    """A file of which no knowledge can be made; says why."""


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def documents_of(folder: Path, file: Path, category: str | None) -> list[Document]:
    """Cut a file into pieces. The first is named as the file is below its folder, those that follow `#2`, `#3`...

    Without a category it is the first folder's name. Raises Unusable.
    """
    text = _text_of(file)
    place = file.relative_to(folder)
    named = category or (place.parts[0] if len(place.parts) > 1 else "general")
    return [
        Document(doc_id=numbered(place, number), content=piece, category=named, title=_title(file, text))
        for number, piece in enumerate(pieces(text), start=1)
    ]


def numbered(place: Path, number: int) -> str:
    return place.as_posix() + (f"#{number}" if number > 1 else "")


def _text_of(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as exc:
        raise Unusable("not UTF-8") from exc
    except OSError as exc:
        raise Unusable(f"cannot be read ({type(exc).__name__})") from exc
    if not text:
        raise Unusable("empty")
    return text


def _title(file: Path, text: str) -> str:
    """The first heading, in one line; the file's name where there is none."""
    heading = _HEADING.search(text) if file.suffix.lower() == ".md" else None
    shown = printable(heading[1]).rstrip("# ") if heading else ""
    return (shown or file.name)[:MAX_TITLE]


def printable(text: str) -> str:
    """In one line, and nothing in it that a terminal would obey."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def pieces(text: str, about: int = PIECE_CHARACTERS) -> Iterator[str]:
    """Cut a text where it hurts least, never inside a word: one that is longer than a piece stays whole."""
    start = 0
    while len(text) - start > about:
        end = _end(text, start, about)
        if piece := text[start:end].strip():
            yield piece
        start = end
    if rest := text[start:].strip():
        yield rest


def _end(text: str, start: int, about: int) -> int:
    """Not in the first half of a piece if there is a place in the second, be it worse."""
    for low in (start + about // 2, start + 1):
        for place in _ENDS:
            ends = [found.end() for found in place.finditer(text, low, start + about)]
            if ends:
                return ends[-1]
    behind = _ENDS[-1].search(text, start + about)
    return behind.end() if behind else len(text)


class Import:
    """Makes the service know what is in a folder; `counts` by what was done, `skipped` names files and says why."""

    def __init__(self, client: SyncMemoryServiceClient, folder: Path, category: str | None) -> None:
        self._client, self._folder, self._category = client, folder, category
        self.counts: Counter[str] = Counter()
        self.skipped: list[tuple[Path, str]] = []

    def run(self, files: Iterable[Path]) -> None:
        for file in files:
            try:
                self._take(file)
            except Unusable as exc:
                self.skipped.append((file, str(exc)))
            except InvalidRequest as exc:
                self.skipped.append((file, exc.detail))

    def _take(self, file: Path) -> None:
        documents = documents_of(self._folder, file, self._category)
        for document in documents:
            answer = self._client.store_knowledge(
                document.content, document.category, title=document.title, doc_id=document.doc_id
            )
            self.counts[answer["change"]] += 1
        place, number = file.relative_to(self._folder), len(documents) + 1
        while self._deleted(numbered(place, number)):
            self.counts["deleted"] += 1
            number += 1

    def _deleted(self, doc_id: str) -> bool:
        try:
            self._client.delete_knowledge(doc_id)
        except KnowledgeNotFound:
            return False
        return True

"""What recall follows: the change feeds of one user's partition in each container, made into entries.

A feed gives each document as it is now, at the place of its last change: one that got its vector comes again. So a
cursor keeps, beside its place in each feed, which items it gave without a vector; those get theirs alone later.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from memory_service.stores.base import Entries
from memory_service.stores.cosmos.documents import FIRST_EPOCH, Document, item_id_of, memory_of, turn_of, vector_of
from memory_service.values import Value

NOWHERE = (None, None, None)
MOST_KEPT = 2000
"""Items whose state is kept with a cursor: some 40 bytes each."""


class Cursor(Value, frozen=True, kw_only=True):
    """`feeds`: the continuation of each. `waiting`: what was read from them and not given yet.
    `bare`: items given without a vector, with the revision given.
    While some are waiting, `former`: where those were read from, and `given`: items given since, with their etag.
    `epoch`: the last that the feed has told of; what was deleted is in no feed.
    """

    feeds: tuple[str | None, ...] = NOWHERE
    waiting: tuple[Document, ...] = ()
    bare: dict[str, int] = {}
    former: tuple[str | None, ...] = NOWHERE
    given: dict[str, str] = {}
    epoch: str = FIRST_EPOCH

    def with_changes(self, changes: tuple[Document, ...], feeds: tuple[str, ...], epoch: str | None) -> Cursor:
        waiting = tuple(document for document in changes if self.given.get(item_id_of(document)) != document["_etag"])
        epoch = epoch or self.epoch
        return replace(self, feeds=feeds, waiting=waiting, former=self.feeds, epoch=epoch)

    @property
    def to_keep(self) -> Cursor:
        """The same place without the documents: those that are waiting will be read again.

        Of what it knows of single items some goes where that is much: those may be given again.
        """
        bare, given = dict([*self.bare.items()][-MOST_KEPT:]), dict([*self.given.items()][-MOST_KEPT:])
        return Cursor(feeds=self.former if self.waiting else self.feeds, bare=bare, given=given, epoch=self.epoch)


def sorted_changes(feeds: Iterable[list[Document]]) -> tuple[Document, ...]:
    """Turns and memories in the order in which they were written, which their vectors need not have come in.

    Of one that is there twice, because it changed meanwhile, the later one is kept.
    """
    latest = {(doc["type"], doc["id"]): doc for feed in feeds for doc in feed if doc["type"] in ("turn", "memory")}
    return tuple(sorted(latest.values(), key=lambda doc: doc["written"]))


def epoch_in(feeds: Iterable[list[Document]]) -> str | None:
    """The epoch that began meanwhile, if one did."""
    return next((str(doc["epoch"]) for feed in feeds for doc in feed if doc["type"] == "epoch"), None)


def page_of(cursor: Cursor, space: str, limit: int) -> Entries:
    """The next entries of what is waiting."""
    page, waiting = cursor.waiting[:limit], cursor.waiting[limit:]
    bare = dict(cursor.bare)
    given = {item_id_of(document): document["_etag"] for document in page} if waiting else {}
    new, vectors = [], []
    for document in page:
        item_id, revision = item_id_of(document), document["written"]
        if bare.pop(item_id, None) != revision:
            new.append(document)
        vector = vector_of(document, space)
        if vector is None:
            bare[item_id] = revision
        else:
            vectors.append(vector)
    return Entries(
        turns=[turn_of(document) for document in new if document["type"] == "turn"],
        memories=[memory_of(document) for document in new if document["type"] == "memory"],
        vectors=vectors,
        cursor=Cursor(
            feeds=cursor.feeds,
            waiting=waiting,
            bare=bare,
            former=cursor.former,
            given={**cursor.given, **given} if waiting else {},
            epoch=cursor.epoch,
        ),
        more=bool(waiting),
        epoch=cursor.epoch,
    )

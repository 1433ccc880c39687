"""What is kept in Pixeltable, and how it is found there. All of this waits: it is called on threads of its own.

A user has a table of their own. An approximate index over everybody's would look at other users' neighbours first; and
Pixeltable keeps what was deleted or updated as earlier versions, so that a text is gone only with its table.
So a table is only ever added to. To take something away, what stays is written to a new one:

    next_...     is being written; never read
    user_...     is what holds
    former_...   held until `next` took its place; where there is no `user`, it still does
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import reduce
from hashlib import blake2b
from typing import Any, Self, TypeVar
from urllib.parse import quote
from uuid import uuid4

import msgspec
import numpy as np
import pixeltable as pxt
from pixeltable.exceptions import NotFoundError

from memory_service.projections.base import Copy, digest_of
from memory_service.projections.pixeltable.embedding import embed
from memory_service.projections.pixeltable.installation import open_pixeltable, told, version
from memory_service.ranking import bm25
from memory_service.stores.base import Sought
from memory_service.text import Tokenizer
from memory_service.values import Scope

T = TypeVar("T")

ROOT = "agent_memory"
"""All of ours is in this directory; what else is in the user's Pixeltable is none of our business."""
COLUMNS: Mapping[str, Any] = {
    "item_id": pxt.String,
    "kind": pxt.String,
    "is_extract": pxt.Bool,
    "session_id": pxt.String | None,
    "category": pxt.String | None,
    "tags": pxt.Json,
    "tag_marks": pxt.String,
    "content": pxt.String,
    "stems": pxt.String,
    "role": pxt.String | None,
    "name": pxt.String | None,
    "metadata": pxt.Json,
    "created_at": pxt.Timestamp,
    "digest": pxt.String,
    "state": pxt.String,
}
"""`tag_marks` and `stems`: what the database can look for. `state` tells whether anything of an item has changed."""
MEANING = "meaning"
MOST_TERMS = 16
"""Of a question, its longest so many words are looked for."""
MOST_WORDED = 2000
"""Where more items than these hold a word of the question, the latest are weighed."""
MADE = "made_"
LOOKS = 5
"""A table may be replaced between the look for it and the question to it, so often."""

Row = dict[str, Any]


def _made() -> str:
    """Make the directories, unless they are there; returns the name of what was made."""
    pxt.create_dir(ROOT, if_exists="ignore")
    names = [str(path)[len(ROOT) + 1 :] for path in pxt.list_dirs(ROOT, recursive=False)]
    if found := sorted(name for name in names if name.startswith(MADE)):
        return found[0]  # two may have been made at once
    made = f"{MADE}{uuid4().hex}"
    pxt.create_dir(f"{ROOT}/{made}", if_exists="ignore")
    return made


class Tables:
    """Verbs that write and `held` are for one thread, `search` and `check` for another.

    `made` names what is ours as it was made: an empty directory beside those of tenants is called so.
    """

    def __init__(self, made: str) -> None:
        self.made = made
        self._tokenize = Tokenizer()

    @classmethod
    def opened(cls) -> Self:
        with told():
            open_pixeltable()
            return cls(_made())

    def doing(self, verb: Callable[[Self], T]) -> T:
        """Do one of the verbs. Raises Failed."""
        with told():
            return verb(self)

    def put(self, scope: Scope, copies: Sequence[Copy]) -> None:
        rows = {copy.id: self._row(copy) for copy in copies}
        if not rows:
            return
        table = _settled(scope)
        states = _states(table, rows) if table is not None else {}
        new = [row for id, row in rows.items() if states.get(id) != row["state"]]
        if table is None or not states.keys().isdisjoint(row["item_id"] for row in new):
            kept = _rows(table, without={row["item_id"] for row in new}) if table is not None else []
            _replace(scope, kept + new)
        elif new:
            table.insert(new)

    def remove(self, scope: Scope, ids: Sequence[str]) -> None:
        table = _settled(scope)
        if table is None or not ids or not _states(table, ids):
            return
        kept = _rows(table, without=set(ids))
        if kept:
            _replace(scope, kept)
        else:
            _forget(scope)

    def forget(self, scope: Scope) -> None:
        _forget(scope)

    def held(self, scope: Scope) -> dict[str, str]:
        table = _settled(scope)
        if table is None:
            return {}
        return {row["item_id"]: row["digest"] for row in table.select(table.item_id, table.digest).collect()}

    def search(self, scope: Scope, sought: Sought, limit: int) -> list[str]:
        for look in range(LOOKS):
            try:
                table = _current(scope)
                if table is None or not sought.kinds:
                    return []
                return list(dict.fromkeys([*_nearest(table, sought, limit), *_worded(table, sought, limit)]))
            except NotFoundError:
                if look == LOOKS - 1:
                    raise
        raise AssertionError("unreachable")

    def check(self) -> dict[str, Any]:
        self.made = _made()
        return {"version": version(), "tenants": len(pxt.list_dirs(ROOT, recursive=False)) - 1}

    def drop(self) -> None:
        pxt.drop_dir(ROOT, force=True, if_not_exists="ignore")
        self.made = _made()

    def _row(self, copy: Copy) -> Row:
        item = copy.item
        row = {
            "item_id": item.id,
            "kind": item.kind,
            "is_extract": copy.is_extract,
            "session_id": item.session_id,
            "category": item.category,
            "tags": _storable(list(item.tags)),
            "tag_marks": "".join(map(_mark, item.tags)),
            "content": item.text,
            "stems": f" {' '.join(self._tokenize(copy.words))} ",
            "role": item.role,
            "name": item.name,
            "metadata": _storable(item.metadata),
            "created_at": item.created_at,
            "digest": copy.digest,
        }
        return {**row, "state": digest_of(msgspec.json.encode(row).decode())}


# Tables


def path_of(scope: Scope, form: str) -> str:
    """Names are case-blind and of letters, digits and `_` there: digests are, and ids are not."""
    return f"{ROOT}/tenant_{_digest(scope.tenant_id)}/{form}_{_digest(scope.user_id)}"


def _digest(name: str) -> str:
    return blake2b(name.encode(), digest_size=16).hexdigest()


def _current(scope: Scope) -> pxt.Table | None:
    """The table that holds, also while another thread puts a new one in its place."""
    for form in ("user", "former", "user"):
        table = pxt.get_table(path_of(scope, form), if_not_exists="ignore")
        if table is not None:
            return table
    return None


def _settled(scope: Scope) -> pxt.Table | None:
    """The table that holds, once what was cut off is finished or undone."""
    user, former = path_of(scope, "user"), path_of(scope, "former")
    table = pxt.get_table(user, if_not_exists="ignore")
    if pxt.get_table(former, if_not_exists="ignore") is not None:
        if table is None:
            pxt.move(former, user)
            return pxt.get_table(user)
        pxt.drop_table(former, force=True)
    return table


def _replace(scope: Scope, rows: list[Row]) -> None:
    """Make these rows all that is kept of a user. Wherever it is cut off, either what was holds or what shall be."""
    following, user, former = (path_of(scope, form) for form in ("next", "user", "former"))
    pxt.create_dir(following.rpartition("/")[0], if_exists="ignore")
    table = pxt.create_table(following, COLUMNS, if_exists="replace_force")
    table.insert(rows)
    table.add_embedding_index("content", idx_name=MEANING, embedding=embed, metric="cosine")  # row by row is dearer
    pxt.move(user, former, if_not_exists="ignore")
    pxt.move(following, user)
    pxt.drop_table(former, force=True, if_not_exists="ignore")


def _forget(scope: Scope) -> None:
    for form in ("next", "former", "user"):  # this last, lest a former one come to hold again
        pxt.drop_table(path_of(scope, form), force=True, if_not_exists="ignore")


def _states(table: pxt.Table, ids: Iterable[str]) -> dict[str, str]:
    found = table.where(table.item_id.isin(list(ids))).select(table.item_id, table.state).collect()
    return {row["item_id"]: row["state"] for row in found}


def _rows(table: pxt.Table, without: Collection[str]) -> list[Row]:
    columns = [getattr(table, name) for name in COLUMNS]
    return [dict(row) for row in table.select(*columns).collect() if row["item_id"] not in without]


def _storable(value: Any) -> Any:
    """JSON without the one character that PostgreSQL does not take; of plain texts Pixeltable takes it out itself."""
    if isinstance(value, str):
        return value.replace("\0", " ")
    if isinstance(value, dict):
        return {_storable(name): _storable(one) for name, one in value.items()}
    return [_storable(one) for one in value] if isinstance(value, list) else value


# Searching


def _mark(tag: str) -> str:
    """A tag as it is looked for: no other one, nor several in a row, are spelled so that this is in them."""
    return f"<{quote(tag, safe='')}>"


def _allowed(table: pxt.Table, sought: Sought) -> Any:
    only = sought.only
    wishes = [table.kind.isin(list(sought.kinds))]
    if not sought.with_extracts:
        wishes.append(table.is_extract == False)  # noqa: E712 (an expression of Pixeltable's)
    if only.session_id is not None:
        wishes.append(table.session_id == only.session_id)
    if only.category is not None:
        wishes.append(table.category == only.category)
    wishes += [~table.tag_marks.contains(_mark(tag)) for tag in only.without_tags]
    return reduce(operator.and_, wishes)


def _nearest(table: pxt.Table, sought: Sought, limit: int) -> list[str]:
    if not sought.question:
        return []
    # Not by the index as it is: it looks at 40 neighbours and drops those that are not allowed. This is the same
    # order, computed over all that are; nearest first, for a text without words is at no angle to anything, and what
    # is not a number comes last.
    far = table.content.similarity(string=sought.question, idx=MEANING) * -1.0
    found = table.where(_allowed(table, sought)).order_by(far).select(table.item_id).limit(limit).collect()
    return [row["item_id"] for row in found]


def _worded(table: pxt.Table, sought: Sought, limit: int) -> list[str]:
    terms = sorted(sought.stems, key=len, reverse=True)[:MOST_TERMS]
    if not terms:
        return []
    holds_one = reduce(operator.or_, [table.stems.contains(f" {term} ") for term in terms])
    latest = table.where(_allowed(table, sought) & holds_one).order_by(table.created_at, asc=False).limit(MOST_WORDED)
    rows = list(latest.select(table.item_id, table.stems).collect())
    best = np.argsort(-_weights(terms, [row["stems"] for row in rows]), kind="stable")[:limit]
    return [rows[place]["item_id"] for place in best]


def _weights(terms: Sequence[str], texts: Sequence[str]) -> Any:
    held = [Counter(text.split()) for text in texts]
    lengths = np.array([counter.total() for counter in held], np.float32)
    counts = []
    for term in terms:
        places = [place for place, counter in enumerate(held) if term in counter]
        often = [held[place][term] for place in places]
        counts.append((np.array(places, np.int32), np.array(often, np.float32)))
    return bm25(counts, lengths, len(held))

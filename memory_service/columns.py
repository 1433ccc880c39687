"""Columns of a corpus: numpy arrays with an entry for each item there is room for. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:  # it takes a while to import
    import numpy as np
    from numpy.typing import NDArray
else:
    from memory_service.late import np

Entry = TypeVar("Entry", bound="np.generic")

FIRST_ROOM = 64
"""Items there is room for at first."""


class Column(Generic[Entry]):
    """Entries are `empty` at first; `widen` makes rows of them."""

    def __init__(self, kind: type[Entry], empty: float = 0) -> None:
        self.data: NDArray[Entry] = np.full(FIRST_ROOM, empty, kind)
        self.width = 0
        self._empty = empty

    @property
    def size_bytes(self) -> int:
        return int(self.data.nbytes)

    def grow(self, room: int) -> None:
        more = np.full((room - len(self.data), *self.data.shape[1:]), self._empty, self.data.dtype)
        self.data = np.concatenate([self.data, more])

    def widen(self, width: int) -> None:
        """Make room for rows of this width; rows of another width are forgotten: two spaces never mix."""
        if width != self.width:
            self.data = np.zeros((len(self.data), width), self.data.dtype)
            self.width = width

    def used(self, n: int) -> NDArray[Entry]:
        return self.data[:n]


class Names(Column["np.int32"]):
    """Names, of which few are different: each entry is the number of one, 0 of none."""

    def __init__(self) -> None:
        super().__init__(np.int32)
        self._numbers: dict[str | None, int] = {None: 0}

    def put(self, place: int, name: str | None) -> None:
        """Give an entry that has none a name, or leave it without one."""
        if name is not None:
            self.data[place] = self._numbers.setdefault(name, len(self._numbers))

    def number_of(self, name: str) -> int:
        """-1 if no entry has this name."""
        return self._numbers.get(name, -1)

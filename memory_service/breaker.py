"""A circuit breaker: after several failures in a row, stop asking for a while, then let one call try."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from memory_service.errors import ModelError, ModelUnavailable

LONGEST_WISH_S = 3600


class Breaker:
    """Open after `failures` in a row; after `rest_s` one call may try. The clock is monotonic seconds."""

    def __init__(self, *, failures: int = 5, rest_s: float = 30.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._failures, self._rest_s, self._clock = failures, rest_s, clock
        self._in_a_row = 0
        self._open_until: float | None = None
        self.opened = 0

    @property
    def state(self) -> str:
        if self._open_until is None:
            return "closed"
        return "open" if self._clock() < self._open_until else "half-open"

    def wait_s(self) -> float:
        """Seconds until a call may be made; 0 means now. In the half-open state this lets one caller through."""
        if self._open_until is None:
            return 0.0
        left = self._open_until - self._clock()
        if left > 0:
            return left
        self._open_until = self._clock() + self._rest_s  # the others wait for how this one fares
        return 0.0

    def succeeded(self) -> None:
        self._in_a_row, self._open_until = 0, None

    def failed(self, wished_s: float | None = None) -> None:
        """Count a failure; a wish to be left alone for some seconds is granted at once."""
        self._in_a_row += 1
        if wished_s or self._in_a_row >= self._failures:
            self.opened += self._open_until is None
            self._open_until = self._clock() + max(min(wished_s or 0, LONGEST_WISH_S), self._rest_s)

    def released(self) -> None:
        """Say that a call ended without telling anything; who was let through to try has not."""
        if self._open_until is not None:
            self._open_until = min(self._open_until, self._clock())

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Tell how a model fares that is asked in this block; an answer that is of no use is an answer."""
        try:
            yield
        except ModelUnavailable as exc:
            self.failed(exc.retry_after_s)
            raise
        except ModelError:
            self.succeeded()
            raise
        self.succeeded()

"""What each verb costs: answers, request units and bytes, as the service and the wire say."""

from __future__ import annotations

from collections import defaultdict
from contextvars import ContextVar
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import msgspec

verb: ContextVar[str] = ContextVar("verb", default="start")

METADATA = "metadata"
"""What the SDK asks about the account and its containers, of itself: now and then, whatever the verb."""
THROTTLED = 429
HALF_A_SECOND = timedelta(seconds=0.5)


class Spent(msgspec.Struct):
    """`requests`: those that were answered; what a lost answer cost is not known. `bytes_*`: of bodies."""

    requests: int = 0
    request_units: float = 0.0
    bytes_sent: int = 0
    bytes_received: int = 0


class Meter:
    def __init__(self) -> None:
        self._spent: defaultdict[str, Spent] = defaultdict(Spent)
        self._throttled = 0
        self.dated_at: datetime | None = None
        """When the last answer was made, by the service's clock; it tells whole seconds."""

    def count(self, response: Any) -> None:
        """Is told of each answer there is, also of those the SDK does not pass on."""
        answer, asked = response.http_response, response.http_request
        spent = self._spent[verb.get() if "/docs" in urlsplit(asked.url).path else METADATA]
        spent.requests += 1
        spent.request_units += float(answer.headers.get("x-ms-request-charge", 0))
        spent.bytes_sent += len(asked.body or "")
        spent.bytes_received += len(answer.body())
        self._throttled += answer.status_code == THROTTLED
        if "Date" in answer.headers:
            self.dated_at = parsedate_to_datetime(answer.headers["Date"]) + HALF_A_SECOND

    def usage(self) -> dict[str, Any]:
        verbs = {name: _shown(spent) for name, spent in sorted(self._spent.items())}
        total = sum(spent.request_units for spent in self._spent.values())
        return {"throttled": self._throttled, "request_units": round(total, 1), "verbs": verbs}


def _shown(spent: Spent) -> dict[str, Any]:
    return {**msgspec.structs.asdict(spent), "request_units": round(spent.request_units, 1)}

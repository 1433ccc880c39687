"""What would be right, and cannot be done now."""

from __future__ import annotations

from memory_service.errors.root import MemoryServiceError


class Unavailable(MemoryServiceError):
    """`retry_after_s` is when trying again makes sense."""

    code = "unavailable"
    title = "The service cannot do this now"
    retry_after_s = 1


class StoreUnavailable(Unavailable):
    code = "store_unavailable"
    title = "The store did not answer"


class StoreFailed(StoreUnavailable):
    code = "store_failed"
    title = "The store failed while writing"

    def __init__(self) -> None:
        super().__init__("writing failed; the service ends, and recovers from its record when it is started again")


class StoreCorrupt(StoreUnavailable):
    code = "store_corrupt"
    title = "The record is damaged here"
    retry_after_s = 60

    def __init__(self) -> None:
        super().__init__("what is on record of this cannot be read; what is elsewhere in the record is served")


class StoreThrottled(StoreUnavailable):
    code = "store_throttled"
    title = "The store is asked for more than it may do"

    def __init__(self, retry_after_s: int) -> None:
        super().__init__("the database turned it down as too much at once; try again shortly")
        self.retry_after_s = retry_after_s


class StorageFull(StoreUnavailable):
    code = "storage_full"
    title = "There is no room left to store"
    retry_after_s = 60


class DriverUnavailable(Unavailable):
    code = "driver_unavailable"
    title = "The engine of the memory driver did not answer"


class IdentityProviderUnavailable(Unavailable):
    code = "identity_provider_unavailable"
    title = "The identity provider did not answer"

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(
            "the keys of the identity provider could not be had, and this token's is not among those known"
        )
        self.retry_after_s = retry_after_s


class Overloaded(Unavailable):
    code = "overloaded"
    title = "Too much is waiting to be written"

    def __init__(self) -> None:
        super().__init__("more waits to be written than the disk keeps up with; nothing was stored, try again shortly")


class TooManyConnections(Unavailable):
    code = "too_many_connections"
    title = "Too many connections are open"


class DeadlineExceeded(Unavailable):
    code = "deadline_exceeded"
    title = "The request took too long"

    def __init__(self) -> None:
        super().__init__("a write may still land; asking again with the same turn_id tells")


class Draining(Unavailable):
    code = "draining"
    title = "The service is about to end"


class UnsafeStart(MemoryServiceError):
    code = "unsafe_start"
    title = "The service refuses to start"


class RecordInUse(UnsafeStart):
    """Another process has the record open, and only one may."""


class ModelError(MemoryServiceError):
    code = "model_error"
    title = "The model gave nothing usable"


class ModelUnavailable(ModelError):
    """`retry_after_s` is the model's own wish, or None."""

    code = "model_unavailable"
    title = "The model did not answer"

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class ModelRefused(ModelError):
    """The endpoint will not take this request as it is; with other text it may."""

    code = "model_refused"
    title = "The model's endpoint turned the request down"


class BadModelOutput(ModelError):
    code = "bad_model_output"
    title = "The model's answer was not what was asked for"

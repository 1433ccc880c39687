"""The root of all errors."""

from __future__ import annotations


class MemoryServiceError(Exception):
    """Root of all errors this service raises on purpose."""

    code = "internal_error"
    title = "Something went wrong in the service"

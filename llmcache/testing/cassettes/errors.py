"""What can be wrong with a cassette."""

from __future__ import annotations


class CassetteError(ValueError):
    """A cassette cannot be read, written or used as it is asked for."""


class NotRecorded(AssertionError):
    """A request is not in the cassette, or what came of it could not be recorded; while playing nothing has left."""


class UnusedInteractions(UserWarning):
    """A cassette has interactions that nothing asked for."""

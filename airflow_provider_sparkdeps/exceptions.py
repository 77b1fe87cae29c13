"""The errors that users see: one tree, each message with the fault, its cause and the mend."""

from __future__ import annotations


class SparkDepsError(Exception):
    """Base of all errors that this package raises on purpose."""


class InvalidArgumentError(SparkDepsError, ValueError):
    """A wish (environment, accumulator, connection field) that can't be meant as written."""


class BuildError(SparkDepsError):
    """An environment could not be built; the message ends with the builder's own words."""


class ArchiveError(SparkDepsError):
    """An archive is missing, incomplete or not what its manifest says."""


class ConnectError(SparkDepsError):
    """The Spark Connect server can't be reached, refuses us, or is not what we can talk to."""


class SessionError(SparkDepsError):
    """A session could not be prepared or used as asked."""


class SessionLostError(SessionError):
    """A shared session was closed, has expired, or went with its server."""

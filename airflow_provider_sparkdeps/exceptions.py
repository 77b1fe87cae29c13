"""The exceptions that this package raises. Each message says what is wrong, why, and what to do."""

from __future__ import annotations

from pickle import PicklingError


class SparkDepsError(Exception):
    """Base class of all exceptions of this package."""


class InvalidArgumentError(SparkDepsError, ValueError):
    """An argument, connection field or input file is invalid."""


class InvalidTypeError(InvalidArgumentError, TypeError):
    """A value is of a type that is not supported. PySpark raises a TypeError for it."""


class NotPicklableError(InvalidArgumentError, PicklingError):
    """A value can't be pickled. PySpark raises a PicklingError for it."""


class BuildError(SparkDepsError):
    """An environment could not be built. The message ends with the output of the tool that failed."""


class ArchiveError(SparkDepsError):
    """An archive is missing, incomplete, or does not match its manifest, or its store can't be used."""


class ConnectError(SparkDepsError):
    """The Spark Connect server can't be reached, rejects the credentials, or is not supported."""


class SessionError(SparkDepsError):
    """A session could not be prepared or used."""


class SessionLostError(SessionError):
    """A shared session was closed, has expired, or ended with its server."""

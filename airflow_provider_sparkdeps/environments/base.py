"""An environment: what a task wants installed, as a frozen value with a key."""

from __future__ import annotations

import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError

KEY_FORMAT = 1
"""Part of every key: raised when the same wish would be built into something else."""

Report = Callable[[str, str], None]
"""Called with a phase ("resolve", "install", ...) and a line on how far it is."""

_MINOR = re.compile(r"3\.(0|[1-9]\d*)")


def current_python() -> str:
    """Return the running interpreter's minor version, such as "3.12"."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def current_platform() -> str:
    """Return this machine's platform, such as "linux-x86_64"."""
    import platform

    return f"{sys.platform}-{platform.machine()}"


@dataclass(frozen=True)
class BuiltPrefix:
    """What a build made in its directory.

    :param python: full version of the interpreter that it was built for, such as "3.12.1".
    :param interpreter: path of the interpreter relative to the prefix; None where it holds none.
    :param packages: version of each installed distribution, by canonical name.
    :param lock: the exact requirements that the wish was resolved to, sorted.
    :param post_unpack_script: path, relative to the prefix, of a script that its interpreter runs after unpacking,
        with the path that it will be at as the argument.
    :param host_path: the PATH on which the interpreter, a script, finds what it runs; None where it is a Python
        that is all in the prefix.
    """

    python: str
    interpreter: str | None
    packages: Mapping[str, str]
    lock: tuple[str, ...]
    post_unpack_script: str | None = None
    host_path: str | None = None


@dataclass(frozen=True)
class Login:
    """Where a private index or channel is, and who we are there: what an Airflow connection says.

    :param url: of the index or channel, without credentials.
    :param username: empty if only the password (a token) counts.
    :param password: never shown.
    """

    url: str
    username: str = ""
    password: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class Environment(ABC):
    """A wish: which Python packages executors should have.

    :param python: minor version such as "3.12". None, the default, means that of the process that asks: UDFs are
        pickled by it, and executors need the same.
    :param platform: what the archive will run on; by default this machine's, such as "linux-x86_64".
    :param glibc: the oldest C library that executors have, such as "2.28"; a build whose native code wants a newer one
        is refused. Not checked by default.
    :raises InvalidArgumentError: when a value can't be meant as written.
    """

    python: str | None = None
    platform: str = field(default_factory=current_platform)
    glibc: str | None = None

    kind: ClassVar[str]
    _kinds: ClassVar[dict[str, type[Environment]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "kind" in cls.__dict__:
            Environment._kinds[cls.kind] = cls

    def __post_init__(self) -> None:
        if self.python is not None and not (isinstance(self.python, str) and _MINOR.fullmatch(self.python)):
            raise InvalidArgumentError(
                f"python={self.python!r} is not a minor version of Python. Write it as a string with one dot,"
                f' such as python="{current_python()}", or leave it out for that of the worker.'
            )
        if not isinstance(self.platform, str) or not re.fullmatch(r"[a-z0-9]+-\w+", self.platform):
            raise InvalidArgumentError(
                f"platform={self.platform!r} is not a platform. Write system and machine,"
                f' such as platform="{current_platform()}", or leave it out for this machine\'s.'
            )

        if self.glibc is not None and not (isinstance(self.glibc, str) and re.fullmatch(r"2\.\d+", self.glibc)):
            raise InvalidArgumentError(
                f'glibc={self.glibc!r} is not a version of glibc. Write it as a string, such as glibc="2.28".'
            )

    @property
    def python_minor(self) -> str:
        """The minor version of Python that is meant, such as "3.12"."""
        return self.python or current_python()

    @property
    def key(self) -> str:
        """Hex sha256 of the wish: the same wish has the same archive, in whatever words it is put."""
        import hashlib
        import json

        wish = {
            "format": KEY_FORMAT,
            "kind": self.kind,
            "python": self.python_minor,
            "platform": self.platform,
            "glibc": self.glibc,
            "inputs": self.inputs(),
        }
        canonical = json.dumps(wish, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    @abstractmethod
    def title(self) -> str:
        """A few words for logs, such as "venv of pandas<3, pyarrow (Python 3.12)"."""

    @abstractmethod
    def inputs(self) -> dict[str, Any]:
        """Return, as plain data, what is to be installed, with the contents of files in place of their names."""

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """Return, as plain data, the arguments that make an equal environment; never a credential."""

    @property
    def connections(self) -> tuple[str, ...]:
        """The ids of the connections that a build needs a `Login` of."""
        return ()

    @abstractmethod
    def build(self, prefix: Path, *, report: Report, timeout: float, logins: Mapping[str, Login]) -> BuiltPrefix:
        """Install into an empty directory, so that it can be moved anywhere afterwards.

        :param prefix: a directory that doesn't exist yet.
        :param report: told about each phase and its progress.
        :param timeout: seconds until the build is given up.
        :param logins: by connection id, for each of `connections`.
        :raises BuildError: with the builder's own words.
        """

    def resolve_lock(self, *, report: Report, timeout: float, logins: Mapping[str, Login]) -> tuple[str, ...] | None:
        """Return the lock that `build` would have now, without building; None where only a build can tell.

        Not called `resolve`: Airflow takes whatever has a method of that name for something to be rendered.

        :param report: told about each phase and its progress.
        :param timeout: seconds until it is given up.
        :param logins: by connection id, for each of `connections`.
        :raises BuildError: with the resolver's own words.
        """
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data from which `from_dict` makes the same wish, also in another Python.

        Files are named in it as they were written, absolute ones by their last name alone.
        """
        common = {"kind": self.kind, "python": self.python_minor, "platform": self.platform, "glibc": self.glibc}
        return {**common, **self.options()}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Environment:
        """Make the environment that `to_dict` described.

        :raises InvalidArgumentError: when the data describes none.
        """
        arguments = dict(data)
        kind = arguments.pop("kind", None)
        cls = Environment._kinds.get(kind) if isinstance(kind, str) else None
        if cls is None:
            raise InvalidArgumentError(
                f"kind={kind!r} is no environment; known kinds are {sorted(Environment._kinds)}."
            )
        try:
            return cls(**arguments)
        except TypeError as error:
            raise InvalidArgumentError(f"This is no description of a {kind} environment: {error}.") from error

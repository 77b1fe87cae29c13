"""What a build is given, and what it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_sparkdeps.exceptions import BuildError

if TYPE_CHECKING:
    from airflow_provider_sparkdeps.utils.deadline import Deadline

ProgressCallback = Callable[[str, str], None]
"""Called with a phase ("resolve", "install", ...) and a line about its progress."""


PREFIX_TOKEN = "@sparkdeps-prefix@"  # noqa: S105 - not a secret
"""Stands for the path of the environment in the value of a variable."""


@dataclass(frozen=True)
class Login:
    """Address and credentials of a private index or channel, as an Airflow connection holds them.

    :param url: of the index or channel, without credentials.
    :param username: empty if there is only a token.
    :param password: password or token; not part of the repr.
    """

    url: str
    username: str = ""
    password: str = field(default="", repr=False)


@dataclass(frozen=True)
class BuildContext:
    """What all steps of a build share.

    :param deadline: when the build is stopped.
    :param report: called with the phase and a line about its progress.
    :param logins: of private indexes and channels, by connection ID.
    """

    deadline: Deadline
    report: ProgressCallback
    logins: Mapping[str, Login] = field(default_factory=dict)

    def login(self, conn_id: str) -> Login:
        """Return the login of a connection.

        :raises BuildError: if it was not passed.
        """
        if conn_id not in self.logins:
            raise BuildError(
                f"The login of connection {conn_id!r} was not passed. Tasks take it from Airflow; elsewhere, write"
                f" store.build(..., logins={{{conn_id!r}: Login(url, username, password)}})."
            )
        return self.logins[conn_id]


@dataclass(frozen=True)
class BuiltPrefix:
    """The result of a build.

    :param python: full version of the interpreter that it was built for, such as "3.12.1".
    :param interpreter: path of the interpreter relative to the prefix; None if the prefix has none.
    :param packages: version of each installed distribution, by canonical name.
    :param lock: the exact requirements that the environment was resolved to, sorted.
    :param post_unpack_script: path, relative to the prefix, of a script that the interpreter runs after unpacking,
        with the path of the unpacked environment as its argument.
    :param host_path: the PATH on which an interpreter that is a script finds the Python that it runs; None if the
        interpreter is a Python that is completely in the prefix.
    :param env_vars: environment variables of the Python workers, with `PREFIX_TOKEN` for the prefix.
    """

    python: str
    interpreter: str | None
    packages: Mapping[str, str]
    lock: tuple[str, ...]
    post_unpack_script: str | None = None
    host_path: str | None = None
    env_vars: Mapping[str, str] = field(default_factory=dict)


class Builder(ABC):
    """The steps of one build. Each kind of environment has its own, which keep what they need between steps."""

    @property
    @abstractmethod
    def lock(self) -> tuple[str, ...]:
        """The exact packages, sorted; resolved when this is first asked for."""

    @abstractmethod
    def install(self, prefix: Path) -> None:
        """Install the packages into a directory that does not exist yet."""

    @abstractmethod
    def relocate(self, prefix: Path) -> BuiltPrefix:
        """Make the prefix independent of its path and of this machine."""

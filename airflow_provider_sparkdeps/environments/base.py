"""An environment: what a task needs installed, as a frozen value with a key."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, TypedDict

from airflow_provider_sparkdeps.environments.context import BuildContext, Builder, BuiltPrefix
from airflow_provider_sparkdeps.exceptions import BuildError, InvalidArgumentError
from airflow_provider_sparkdeps.utils.platforms import current_platform, current_python

KEY_FORMAT = 1
"""Part of every key. Increase it when the same specification would be built into something else."""

_MINOR = re.compile(r"3\.(0|[1-9]\d*)")
_TITLE_LENGTH = 80
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Tokens of well-known services, and JSON Web Tokens.
_TOKEN = re.compile(
    r"(?<![\w-])(gh[a-z]_\w{20}|github_pat_\w{20}|glpat-[\w-]{20}|xox[a-z]-[\w-]{10}|A(KI|SI)A[0-9A-Z]{16}"
    r"|eyJ[\w-]+\.eyJ[\w-]+\.)"
)
_REFUSED_VARIABLE = re.compile(r"PYTHON(PATH|HASHSEED|HOME|NOUSERSITE)|PATH|LD_LIBRARY_PATH|(SPARK|PYSPARK)_.*")


class CommonOptions(TypedDict, total=False):
    """Arguments that all environments have; see `Environment`."""

    python: str | None
    glibc: str | None
    env_vars: Mapping[str, str]
    base_dir: str | os.PathLike[str] | None


class BuildOptions(CommonOptions, total=False):
    """Arguments of environments that are built from requirements; see `Environment`."""

    platform: str
    index_conn_id: str | None


@dataclass(frozen=True, kw_only=True)
class Environment(ABC):
    """A specification of the Python packages that executors should have.

    :param python: minor version such as "3.12". By default that of the process that asks: executors need the Python
        that pickles the UDFs.
    :param platform: what the archive will run on, such as "linux-x86_64"; by default this machine's.
    :param glibc: the oldest C library that executors have, such as "2.28". A build whose native code needs a newer one
        is refused. Not checked by default.
    :param index_conn_id: Airflow connection of a private package index, which takes precedence over all others.
    :param env_vars: environment variables of the Python workers. Manifests contain them: never write a secret.
    :param base_dir: directory that relative paths start from. By default that of the file that creates the environment
        (the DAG file), or the working directory in a notebook.
    :raises InvalidArgumentError: if an argument is invalid.
    """

    python: str | None = None
    platform: str = field(default_factory=current_platform)
    glibc: str | None = None
    index_conn_id: str | None = None
    env_vars: Mapping[str, str] = field(default_factory=dict, hash=False)
    base_dir: str | os.PathLike[str] | None = field(default=None, repr=False)

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
        if self.index_conn_id is not None and not (isinstance(self.index_conn_id, str) and self.index_conn_id):
            raise InvalidArgumentError(
                f"index_conn_id={self.index_conn_id!r} is not a connection ID. Write one, or leave it out."
            )

        if "://" in (self.index_conn_id or ""):
            raise InvalidArgumentError(
                "index_conn_id is a URL and not the ID of a connection. Create a connection with the URL and the login,"
                " and pass its ID."
            )
        if self.index_conn_id and self._is_installed:
            raise InvalidArgumentError(
                "index_conn_id can't be combined with an installed environment, which needs no index. Leave it out."
            )
        object.__setattr__(self, "env_vars", check_env_vars(self.env_vars, "env_vars"))

    @property
    def python_minor(self) -> str:
        """The minor version of Python, such as "3.12"; that of an installed environment, if it is a copy of one."""
        return self.python or (self._installed_minor() if self._is_installed else current_python())

    @property
    def key(self) -> str:
        """Hex sha256 of the specification. Files count by their contents, which are read now.

        :raises InvalidArgumentError: if a file can't be read, or its contents are invalid.
        """
        import hashlib
        import json

        specification = {
            "format": KEY_FORMAT,
            "kind": self.kind,
            "python": self.python_minor,
            "platform": self.platform,
            "glibc": self.glibc,
            "inputs": self.inputs(),
            **self._options_if_set,
        }
        canonical = json.dumps(specification, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def title(self) -> str:
        """A short description for logs, such as "venv of pandas<3, pyarrow (Python 3.12)". Reads no file."""
        summary = self._summary
        short = summary if len(summary) <= _TITLE_LENGTH else f"{summary[: _TITLE_LENGTH - 3]}..."
        title = f"{self.kind} of {short}"
        return title if self._is_installed else f"{title} (Python {self.python or current_python()})"

    @property
    def conn_ids(self) -> tuple[str, ...]:
        """The IDs of the connections whose `Login` a build needs."""
        return (self.index_conn_id,) if self.index_conn_id else ()

    def build(self, prefix: Path, context: BuildContext) -> BuiltPrefix:
        """Install the environment into a directory that can be moved to any path afterwards.

        :param prefix: a directory that does not exist yet.
        :param context: deadline, progress callback and logins.
        :raises BuildError: if it can't be built; with the output of the tool that failed.
        :raises InvalidArgumentError: if a file can't be read, or its contents are invalid.
        """
        with self._builder(context, parent=prefix.parent) as builder:
            builder.install(prefix)
            built = builder.relocate(prefix)
        return replace(built, env_vars={**built.env_vars, **self.env_vars})

    def resolve_lock(self, context: BuildContext) -> tuple[str, ...]:
        """Return the lock that `build` would have now, without building.

        Not called `resolve`: Airflow takes whatever has a method of that name for something to be rendered.

        :param context: deadline, progress callback and logins.
        :raises BuildError: if it can't be resolved; with the output of the resolver.
        :raises InvalidArgumentError: if a file can't be read, or its contents are invalid.
        """
        with self._builder(context) as builder:
            return builder.lock

    @contextmanager
    def _builder(self, context: BuildContext, *, parent: Path | None = None) -> Iterator[Builder]:
        import tempfile

        if self.platform != current_platform() and not self._is_cross_platform:
            raise BuildError(
                f"This machine is {current_platform()} and can't build for {self.platform}. Build on a worker of that"
                " platform, or leave platform out. VenvEnvironment with bundle_python=False can be built here if all"
                " its packages have wheels, for executors that have their own Python."
            )
        with tempfile.TemporaryDirectory(prefix=f"{self.kind}-", dir=parent) as scratch:
            yield self._make_builder(Path(os.path.realpath(scratch)), context)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-compatible data from which `from_dict` makes an equal environment, also in another Python.

        Files are named in it as they were written, absolute ones by their last name only.
        """
        common = {"kind": self.kind, "python": self.python_minor, "platform": self.platform, "glibc": self.glibc}
        return {**common, **self._options_if_set, **self.options()}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Environment:
        """Return the environment that `to_dict` described.

        :raises InvalidArgumentError: if the data does not describe an environment.
        """
        arguments = dict(data) if isinstance(data, Mapping) else {}
        kind = arguments.pop("kind", None)
        cls = Environment._kinds.get(kind) if isinstance(kind, str) else None
        if cls is None:
            raise InvalidArgumentError(
                f"kind={kind!r} is not a kind of environment. Known kinds are {', '.join(sorted(Environment._kinds))}."
            )
        try:
            return cls(**arguments)
        except TypeError as error:
            raise InvalidArgumentError(
                f"The data does not describe a {kind} environment: {error}. Use the result of to_dict()."
            ) from error

    # What each kind fills in.

    @property
    @abstractmethod
    def _summary(self) -> str:
        """The middle of the title, such as "pandas<3, pyarrow"."""

    @abstractmethod
    def inputs(self) -> dict[str, Any]:
        """Return, as JSON-compatible data, what is installed, with the contents of files instead of their names."""

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """Return, as JSON-compatible data, the arguments that make an equal environment; never a credential."""

    @abstractmethod
    def _make_builder(self, scratch: Path, context: BuildContext) -> Builder:
        """Return the steps of a build, which may work in a directory that is removed afterwards."""

    @property
    def _is_cross_platform(self) -> bool:
        """Whether it can be built on a machine of another platform."""
        return False

    @property
    def _is_installed(self) -> bool:
        """Whether it is a copy of an installed environment."""
        return False

    def _installed_minor(self) -> str:
        """Return the minor version of Python of the installed environment."""
        raise NotImplementedError

    # What several kinds use.

    @property
    def _options_if_set(self) -> dict[str, Any]:
        options = {"index_conn_id": self.index_conn_id, "env_vars": dict(self.env_vars)}
        return {name: value for name, value in options.items() if value}

    def _check_minor(self, path: Path, minor: str) -> None:
        """Raise InvalidArgumentError if an installed environment does not have the Python of the argument."""
        if self.python not in (None, minor):
            raise InvalidArgumentError(f"{path} has Python {minor}, not python={self.python!r}. Leave python out.")

    def _check_path(self, name: str, *, example: str) -> None:
        """Check an argument that is a path, and expand `~` in it."""
        path = getattr(self, name)
        try:
            written = os.fspath(path)
        except TypeError:
            written = b""
        if not isinstance(written, str) or not written.strip() or "\0" in written:
            raise InvalidArgumentError(f"{name}={path!r} is not a path. Write one, such as {example!r}.")
        try:
            object.__setattr__(self, name, str(Path(written).expanduser()))
        except RuntimeError as error:
            raise InvalidArgumentError(f"{name}={path!r} is not a path: {error}. Correct it.") from None

    def _set_base_dir(self, *, has_paths: bool) -> None:
        """Find the directory that relative paths start from; without paths there is none to compare or to send."""
        from airflow_provider_sparkdeps.environments.input_files import callers_directory

        if self.base_dir is not None:
            self._check_path("base_dir", example="/opt/dags")
        directory = None
        if has_paths:
            directory = callers_directory() if self.base_dir is None else Path(self.base_dir).absolute()
        object.__setattr__(self, "base_dir", directory)

    def _absolute(self, path: str | os.PathLike[str]) -> Path:
        return Path(os.path.normpath((Path(self.base_dir) if self.base_dir is not None else Path.cwd()) / path))


def list_of_strings(value: object, field: str, example: str) -> list[str]:
    """Return a list of strings unchanged.

    :param value: value of an argument.
    :param field: name of the argument.
    :param example: example of a correct value, for the error message.
    :raises InvalidArgumentError: if it is not a list of strings.
    """
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise InvalidArgumentError(f"{field}={value!r} is not a list. Write {field}={example}.")
    listed = list(value)
    wrong = next((each for each in listed if not isinstance(each, str)), None)
    if wrong is not None:
        raise InvalidArgumentError(f"{field} contains {wrong!r}, which is not a string. Write {field}={example}.")
    return listed


def check_env_vars(mapping: object, what: str) -> dict[str, str]:
    """Return environment variables for Python workers, sorted.

    :param what: where they are written, for the error message.
    :raises InvalidArgumentError: if it is not a mapping of strings, or if one can't be set or is a credential.
    """
    from airflow_provider_sparkdeps.utils.redaction import has_credentials

    if not isinstance(mapping, Mapping):
        raise InvalidArgumentError(f"{what} is {mapping!r}, which is not a mapping. Write {{'NAME': 'value'}}.")
    for name, value in mapping.items():
        if not isinstance(name, str) or not isinstance(value, str) or "\0" in value:
            raise InvalidArgumentError(f"{what} has {name!r}: {value!r}. Write names and values as strings.")
        if not _VARIABLE.fullmatch(name) or _REFUSED_VARIABLE.fullmatch(name):
            raise InvalidArgumentError(
                f"{what} sets {name}, which can't be set for Python workers: Spark or the environment sets it, or it is"
                " not a name. Remove it."
            )
        is_number = "TOKENS" in name.upper() and value.isdecimal()
        if (has_credentials(f"?{name}={value}") and not is_number) or _TOKEN.search(value):
            raise InvalidArgumentError(
                f"The variable {name} of {what} looks like a credential, which would be written to manifests, and read"
                " by all users of the cluster. Remove it, and read an Airflow connection in the task."
            )
    return dict(sorted(mapping.items()))

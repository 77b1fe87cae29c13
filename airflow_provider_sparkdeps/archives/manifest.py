"""Archive: the manifest of a built environment."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_provider_sparkdeps.exceptions import ArchiveError

if TYPE_CHECKING:
    from airflow_provider_sparkdeps.environments.base import Environment
    from airflow_provider_sparkdeps.environments.context import BuiltPrefix

FORMAT = 1
_HEX64 = re.compile(r"[0-9a-f]{64}")
_PAYLOAD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Contents:
    """The files, packages and modules of a built environment. Manifests of earlier versions have only some of it.

    :param files: their number.
    :param unpacked_size: of all files, in bytes; 0 if it is not known.
    :param package_sizes: of the files of each package, in bytes, by canonical name; the largest first.
    :param glibc: the newest version that native code requires, e.g. "2.28"; None if there is no native code.
    :param modules: the top-level names that can be imported; None if they are not known, as for a PEX file, which
        keeps its packages in archives.
    """

    files: int = 0
    unpacked_size: int = 0
    package_sizes: Mapping[str, int] = field(default_factory=dict, hash=False)
    glibc: str | None = None
    modules: tuple[str, ...] | None = None

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Contents:
        """Return the contents that a manifest describes; unknown fields are ignored."""
        known = {each.name: data[each.name] for each in fields(Contents) if each.name in data}
        if known.get("modules") is not None:
            known["modules"] = tuple(known["modules"])
        return Contents(**known)


@dataclass(frozen=True)
class Archive:
    """The manifest of a built environment: its specification, its contents and the payload that contains it.

    :param key: of the environment that was built.
    :param kind: of that environment, e.g. "venv".
    :param payload: name of the file next to the manifest, a `.tar.gz` by content.
    :param size: of the payload, in bytes.
    :param sha256: of the payload, in hex.
    :param interpreter: path in the unpacked payload, e.g. "bin/python"; None if executors use their own.
    :param python: full version that it was built for, e.g. "3.12.1".
    :param platform: e.g. "linux-x86_64".
    :param packages: version of each distribution, by canonical name.
    :param lock: the exact requirements that the environment was resolved to.
    :param environment: the specification, as returned by `Environment.to_dict()`.
    :param contents: the files, packages and modules.
    :param created_at: UTC, ISO 8601.
    :param created_by: host and process id of the builder, as "host:pid".
    :param post_unpack_script: path in the payload of a script that its interpreter runs once after unpacking, with the
        path of the unpacked environment as the argument; None if there is none.
    :param env_vars: environment variables of the Python workers, with `PREFIX_TOKEN` for the unpacked payload.
    :param published: whether the call of `ArchiveStore.build` that returned this archive has published it. Not part of
        the manifest.
    """

    key: str
    kind: str
    payload: str
    size: int
    sha256: str
    interpreter: str | None
    python: str
    platform: str
    packages: Mapping[str, str] = field(hash=False)
    lock: tuple[str, ...]
    environment: Mapping[str, Any] = field(hash=False)
    contents: Contents
    created_at: str
    created_by: str
    post_unpack_script: str | None = None
    env_vars: Mapping[str, str] = field(default_factory=dict, hash=False)
    format: int = FORMAT
    published: bool = field(default=False, compare=False)

    @property
    def short_digest(self) -> str:
        """The first 12 characters of the payload's sha256."""
        return self.sha256[:12]

    @property
    def python_minor(self) -> str:
        """The minor version of Python, e.g. "3.12"."""
        return ".".join(self.python.split(".")[:2])

    def to_dict(self) -> dict[str, Any]:
        """Return JSON data for a manifest or XCom."""
        data = asdict(self)
        del data["published"]
        if self.contents.modules is not None:
            data["contents"]["modules"] = list(self.contents.modules)
        return {**data, "lock": list(self.lock)}

    @staticmethod
    def from_dict(data: object) -> Archive:
        """Return the archive that was described by `to_dict`.

        :raises ArchiveError: if the data does not describe an archive; names what is wrong with it.
        """
        if not isinstance(data, Mapping):
            raise ArchiveError(f"The data does not describe an archive: it is {type(data).__name__}, not an object.")
        if data.get("format") != FORMAT:
            raise ArchiveError(
                f"The data describes an archive of format {data.get('format')!r}, but this version reads format"
                f" {FORMAT}. Use one version of airflow-provider-sparkdeps everywhere, or build the environment again."
            )
        # Earlier manifests do not have them.
        data = {"post_unpack_script": None, "env_vars": {}, **data}
        if set(data) != set(_IS_VALID):
            missing, unknown = sorted(set(_IS_VALID) - set(data)), sorted(map(str, set(data) - set(_IS_VALID)))
            raise ArchiveError(f"The data does not describe an archive: missing {missing}, unknown {unknown}.")
        invalid = [name for name, is_valid in _IS_VALID.items() if not is_valid(data[name])]
        if invalid:
            raise ArchiveError(f"The data does not describe an archive: invalid {', '.join(invalid)}.")
        return Archive(**{**data, "lock": tuple(data["lock"]), "contents": Contents.from_dict(data["contents"])})


def make_manifest(
    environment: Environment, key: str, built: BuiltPrefix, contents: Contents, *, size: int, sha256: str
) -> Archive:
    """Return the manifest of an environment that has just been built and packed.

    :param key: of the environment.
    :param size: of the payload, in bytes.
    :param sha256: of the payload, in hex.
    """
    return Archive(
        key=key,
        kind=environment.kind,
        # Not `.tar.gz`: Spark would unpack it once for each session.
        payload=f"env-{sha256[:12]}.payload",
        size=size,
        sha256=sha256,
        interpreter=built.interpreter,
        python=built.python,
        platform=environment.platform,
        packages=dict(built.packages),
        lock=built.lock,
        environment=environment.to_dict(),
        contents=contents,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        created_by=f"{socket.gethostname()}:{os.getpid()}",
        post_unpack_script=built.post_unpack_script,
        env_vars=dict(built.env_vars),
    )


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_variable(value: object) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value))


def _is_relative_path(value: object) -> bool:
    return value is None or (_is_name(value) and not str(value).startswith("/") and ".." not in str(value).split("/"))


_IS_VALID: dict[str, Callable[[Any], object]] = {
    "key": lambda value: isinstance(value, str) and _HEX64.fullmatch(value),
    "kind": _is_name,
    # A name that leads out of the archive's folder must never become part of a path.
    "payload": lambda value: isinstance(value, str) and _PAYLOAD.fullmatch(value),
    "size": lambda value: type(value) is int and value > 0,
    "sha256": lambda value: isinstance(value, str) and _HEX64.fullmatch(value),
    "interpreter": _is_relative_path,
    "python": lambda value: isinstance(value, str) and re.fullmatch(r"3\.\d+\.\d+\S*", value),
    "platform": _is_name,
    "packages": lambda value: isinstance(value, Mapping) and all(_is_name(k) and _is_name(v) for k, v in value.items()),
    "lock": lambda value: isinstance(value, list | tuple) and all(map(_is_name, value)),
    "environment": lambda value: isinstance(value, Mapping),
    "contents": lambda value: (
        isinstance(value, Mapping)
        and type(value.get("unpacked_size", 0)) is int
        and isinstance(value.get("modules"), list | tuple | None)
    ),
    "created_at": _is_name,
    "created_by": _is_name,
    "post_unpack_script": _is_relative_path,
    "env_vars": lambda value: (
        isinstance(value, Mapping) and all(_is_variable(k) and isinstance(v, str) for k, v in value.items())
    ),
    "format": lambda value: value == FORMAT,
}

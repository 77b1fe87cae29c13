"""Archive: the manifest of a built environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from airflow_provider_sparkdeps.exceptions import ArchiveError

FORMAT = 1
_HEX64 = re.compile(r"[0-9a-f]{64}")
_PAYLOAD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Archive:
    """A built environment: what it is, and how to tell its payload from any other.

    :param key: of the environment that it was built for.
    :param kind: of that environment, such as "venv".
    :param payload: name of the file next to the manifest: a `.tar.gz` by content.
    :param size: of the payload, in bytes.
    :param sha256: of the payload, in hex.
    :param interpreter: path inside the unpacked payload, such as "bin/python"; None where executors bring theirs.
    :param python: full version that it was built for, such as "3.12.1".
    :param platform: such as "linux-x86_64".
    :param packages: version of each distribution in it, by canonical name.
    :param lock: the exact requirements that the wish was resolved to.
    :param environment: the wish, as `Environment.to_dict()` puts it.
    :param contents: what its prefix held: `files`, `unpacked_size` in bytes, `package_sizes`, `glibc`, the newest
        version that its native code asks for, and `modules`, the top-level names that its packages are imported by
        (older manifests lack these).
    :param created_at: UTC, ISO 8601.
    :param created_by: host and process id of the builder, as "host:pid".
    :param post_unpack_script: path inside the payload of a script that its interpreter runs once after unpacking,
        with the path that it will be at as the argument; None if there is nothing to do.
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
    contents: Mapping[str, Any] = field(hash=False)
    created_at: str
    created_by: str
    post_unpack_script: str | None = None
    format: int = FORMAT

    @property
    def short_digest(self) -> str:
        """The first 12 characters of the payload's sha256: enough to name it among others."""
        return self.sha256[:12]

    @property
    def python_minor(self) -> str:
        """Such as "3.12"."""
        return ".".join(self.python.split(".")[:2])

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data, for a manifest or XCom."""
        data = asdict(self)
        return {**data, "packages": dict(self.packages), "lock": list(self.lock)}

    @staticmethod
    def from_dict(data: object) -> Archive:
        """Make the archive that `to_dict` described.

        :raises ArchiveError: when the data describes none; says what is wrong with it.
        """
        if not isinstance(data, Mapping):
            raise ArchiveError(f"This does not describe an archive: it is {type(data).__name__}, not an object.")
        if data.get("format") != FORMAT:
            raise ArchiveError(
                f"This describes an archive of format {data.get('format')!r}, and format {FORMAT} is known here."
                " Use one version of airflow-provider-sparkdeps everywhere, or build the environment again."
            )
        # Manifests of before there was such a script.
        data = {"post_unpack_script": None, **data}
        names = {each.name for each in fields(Archive)}
        if set(data) != names:
            missing, unknown = sorted(names - set(data)), sorted(map(str, set(data) - names))
            raise ArchiveError(f"This does not describe an archive: missing {missing}, unknown {unknown}.")
        wrong = [name for name, is_right in _RIGHT.items() if not is_right(data[name])]
        if wrong:
            raise ArchiveError(f"This does not describe an archive: wrong {', '.join(wrong)}.")
        return Archive(**{**data, "lock": tuple(data["lock"])})


def _text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _relative(value: object) -> bool:
    return value is None or (_text(value) and not str(value).startswith("/") and ".." not in str(value).split("/"))


_RIGHT = {
    "key": lambda value: isinstance(value, str) and _HEX64.fullmatch(value),
    "kind": _text,
    # A name that could lead out of the archive's folder must not get as far as a path.
    "payload": lambda value: isinstance(value, str) and _PAYLOAD.fullmatch(value),
    "size": lambda value: type(value) is int and value > 0,
    "sha256": lambda value: isinstance(value, str) and _HEX64.fullmatch(value),
    "interpreter": _relative,
    "python": lambda value: isinstance(value, str) and re.fullmatch(r"3\.\d+\.\d+\S*", value),
    "platform": _text,
    "packages": lambda value: isinstance(value, Mapping) and all(_text(k) and _text(v) for k, v in value.items()),
    "lock": lambda value: isinstance(value, list | tuple) and all(map(_text, value)),
    "environment": lambda value: isinstance(value, Mapping),
    "contents": lambda value: isinstance(value, Mapping),
    "created_at": _text,
    "created_by": _text,
    "post_unpack_script": _relative,
}

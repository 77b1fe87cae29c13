"""Normalizes and checks PEP 508 requirements and paths of projects."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from airflow_provider_sparkdeps.environments.base import list_of_strings
from airflow_provider_sparkdeps.environments.input_files import display_path, strip_comment
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError
from airflow_provider_sparkdeps.utils.redaction import has_credentials, redact
from airflow_provider_sparkdeps.utils.text import first_line

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_EDITABLE = re.compile(r"(-e|--editable)(\s+|=)")
_LOCAL = re.compile(r"(?P<path>[^\[\];]+?)\s*(\[(?P<extras>[^\]]*)\])?\s*(;\s*(?P<marker>.+))?")
_URL = re.compile(r"[\w+.-]{1,40}://\S+")
_VARIABLE = re.compile(r"\$\{[A-Za-z0-9_]+\}")
_FRAGMENT_HASH = re.compile(r"(?<=[#&])(md5|sha\d+)=[^&]*", re.IGNORECASE)
_SHA256 = re.compile(r"sha256=[0-9a-f]{64}|sha384=[0-9a-f]{96}|sha512=[0-9a-f]{128}")
_MAX_LENGTH = 10_000
_FILES = (".whl", ".tar.gz", ".zip")


def normalize_requirements(requirements: object, *, paths: bool = True) -> tuple[str, ...]:
    """Return requirements normalized and sorted, without comments, empty lines and duplicates.

    :param requirements: a list of PEP 508 strings and paths, such as `["pandas<3", "pyarrow", "./my_lib"]`.
    :param paths: whether paths are allowed.
    :raises InvalidArgumentError: if it is not a list, is empty, or contains an invalid requirement.
    """
    lines = map(strip_comment, list_of_strings(requirements, "requirements", '["pandas<3", "pyarrow"]'))
    normalized = tuple(sorted({normalize_requirement(line) for line in lines if line}))
    if not paths and (local := [line for line in normalized if is_local(line)]):
        raise InvalidArgumentError(
            f"{local[0]!r} is a path, but this kind of environment can't build projects. Upload its wheel to a package"
            " index, or use VenvEnvironment."
        )
    if not normalized:
        raise InvalidArgumentError(
            "requirements is empty. Write at least one package, such as requirements=['pandas<3'],"
            " or leave the environment out to use the packages of the cluster."
        )
    return normalized


def is_local(line: str) -> bool:
    """Whether a requirement is a path. As in pip and uv, it has a slash, a leading dot, or the suffix of a wheel."""
    if "://" in line or re.match(r"[A-Za-z0-9._-]++\s*+(\[[^\]]*+\])?\s*+@", line):
        return False
    head = re.split(r"[;\[]", line)[0].strip()
    return head.startswith((".", "/", "~")) or head.endswith(_FILES) or "/" in head


def display_requirement(line: str) -> str:
    """Return a normalized requirement for titles and manifests, with only the last component of an absolute path."""
    if not is_local(line):
        return line
    head = re.split(r"\s*[;\[]", line)[0]
    return f"./{display_path(Path(head))}{line[len(head) :]}" if Path(head).is_absolute() else line


def normalize_requirement(line: str) -> str:
    """Return the normalized form of a requirement or path.

    :raises InvalidArgumentError: if it is not a requirement, or contains a credential.
    """
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    if len(line) > _MAX_LENGTH:
        raise InvalidArgumentError(f"{line[:50]!r}... has {len(line)} characters, which is not a requirement.")
    line = _EDITABLE.sub("", line, count=1) if (editable := bool(_EDITABLE.match(line))) else line
    if is_local(line):
        return _normalize_path(line)
    if editable:
        raise InvalidArgumentError(f"{redact(line)!r} can't be editable. Only paths can: '-e ./my_lib'.")
    try:
        requirement = Requirement(line)
    except InvalidRequirement as error:
        reason = redact(first_line(error))
        raise InvalidArgumentError(f"{redact(line)!r} is not a requirement: {reason}. {_fix(line)}") from None
    check_url(requirement)
    if requirement.name.endswith((".txt", ".toml", ".lock", ".yml")):
        raise InvalidArgumentError(f"{requirement.name!r} is the name of a file. Pass it to from_file().")
    extras = ",".join(sorted(canonicalize_name(extra) for extra in requirement.extras))
    normalized = canonicalize_name(requirement.name) + (f"[{extras}]" if extras else "")
    normalized += f" @ {requirement.url}" if requirement.url else str(requirement.specifier)
    return normalized + (f" ; {requirement.marker}" if requirement.marker else "")


def _normalize_path(line: str) -> str:
    from packaging.markers import InvalidMarker, Marker
    from packaging.utils import canonicalize_name

    match = _LOCAL.fullmatch(line)
    try:
        marker = str(Marker(match["marker"])) if match and match["marker"] else ""
    except InvalidMarker:
        match = None
    if match is None:
        raise InvalidArgumentError(
            f"{line!r} is not a path to a project. Write './my_lib', './my_lib[extra]' or './dist/x.whl'."
        )
    path = Path(match["path"].strip()).expanduser().as_posix()
    if not path.startswith(("/", ".")):
        path = f"./{path}"
    extras = ",".join(sorted(canonicalize_name(each.strip()) for each in (match["extras"] or "").split(",") if each))
    return path + (f"[{extras}]" if extras else "") + (f" ; {marker}" if marker else "")


def split_path(line: str) -> tuple[str, str]:
    """Return the path of a normalized local requirement, and its extras and marker as they follow it."""
    path = re.split(r"(?<!\s)\s*+[\[;]|(?<!\s)\s++--", line)[0]
    return path, line[len(path) :]


def _fix(line: str) -> str:
    if line.startswith("-"):
        return (
            "Options of pip or uv are not supported here. Use VenvEnvironment.from_file() for a requirements.txt, and"
            " index_conn_id for a private index."
        )
    if "://" in line:
        return "Write its name before the URL: 'my_lib @ git+https://...'."
    return "Write a name and optionally versions: 'pandas', 'pandas>=2,<3', 'pandas[parquet]==2.2.*'; or './my_lib'."


def check_url(requirement: Requirement) -> None:
    """Check that the URL of a requirement is not that of a local file, and has no credentials.

    :raises InvalidArgumentError: if it is, or has.
    """
    if not requirement.url:
        return
    scheme = urlsplit(requirement.url).scheme
    if scheme in ("", "file") or scheme.endswith("+file"):
        raise InvalidArgumentError(
            f"The URL of {requirement.name!r} is that of a local file. Write only its path, such as"
            " './my_lib' (of a repository, that of a checkout)."
        )
    check_urls(requirement.url, f"requirement {requirement.name!r}")


def check_urls(text: str, what: str) -> None:
    """Check that a text contains no URLs with credentials, and no variables, which uv would expand.

    :param what: what the text is, for the error message.
    :raises InvalidArgumentError: if it does.
    """
    # uv also takes `https:/host` for a URL.
    urls = _URL.findall(re.sub(r"(https?):[/\\]+", r"\1://", text))
    if any(map(has_credentials, urls)):
        raise InvalidArgumentError(
            f"A URL of {what} contains credentials, which would be written to manifests and logs. Remove them, and"
            " pass an Airflow connection as index_conn_id, or configure uv or git on the worker (netrc,"
            " UV_INDEX_<NAME>_USERNAME and _PASSWORD, a git credential helper)."
        )
    for url in urls:
        digest = _FRAGMENT_HASH.search(url)
        if digest and not _SHA256.fullmatch(digest[0]):
            raise InvalidArgumentError(
                f"The hash {digest[0][:100]!r} in {what} is not one that uv checks. Write sha256= and 64 hex digits."
            )
    if any(re.match(r"(\w+\+)?file:", url) for url in urls):
        raise InvalidArgumentError(f"{what} has a `file:` URL. Write its path, relative to the file, instead.")
    if variable := _VARIABLE.search(text if urls else ""):
        raise InvalidArgumentError(
            f"{variable[0]} in {what} is a variable of the worker, and the key does not depend on its value. Write the"
            " value. For a private index, use index_conn_id."
        )

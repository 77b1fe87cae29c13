"""Requirements, brought into one spelling."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from airflow_provider_sparkdeps.environments.input_files import as_written
from airflow_provider_sparkdeps.environments.requirements.local_projects import Local
from airflow_provider_sparkdeps.environments.requirements.requirement_set import RequirementSet
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError
from airflow_provider_sparkdeps.utils.redaction import has_credentials, redact
from airflow_provider_sparkdeps.utils.text import first_line

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_EDITABLE = re.compile(r"(-e|--editable)(\s+|=)")
_LOCAL = re.compile(r"(?P<path>[^\[\];]+?)\s*(\[(?P<extras>[^\]]*)\])?\s*(;\s*(?P<marker>.+))?")
_FILES = (".whl", ".tar.gz", ".zip")


def normalize_requirements(requirements: object, *, paths: bool = True) -> tuple[str, ...]:
    """Return requirements sorted and in one spelling, without comments, empty lines and repetitions.

    :param requirements: a list of PEP 508 strings and paths, such as `["pandas<3", "pyarrow", "./my_lib"]`.
    :param paths: whether there may be paths.
    :raises InvalidArgumentError: when it isn't a list, is empty, or holds what is no requirement.
    """
    if isinstance(requirements, str | bytes) or not isinstance(requirements, Iterable):
        raise InvalidArgumentError(
            f"requirements={requirements!r} is not a list. Write one string per package,"
            ' such as requirements=["pandas<3", "pyarrow"].'
        )
    lines = (without_comment(each) for each in requirements)
    spelled = tuple(sorted({spell(line) for line in lines if line}))
    if not paths and (local := [line for line in spelled if is_local(line)]):
        raise InvalidArgumentError(
            f"{local[0]!r} is a path, and this kind of environment builds no projects. Put its wheel into a package"
            " index, or use VenvEnvironment."
        )
    if not spelled:
        raise InvalidArgumentError(
            "requirements is empty. Name at least one package, such as requirements=['pandas<3'],"
            " or leave the environment out to use what the cluster has."
        )
    return spelled


def split_local(spelled: Iterable[str], base: Path) -> RequirementSet:
    """Return normalised requirements, with those that are paths apart.

    :param base: the directory that relative paths start from.
    """
    spelled = tuple(spelled)
    locals_ = tuple(_local(line, base) for line in spelled if is_local(line))
    return RequirementSet(requirements=tuple(line for line in spelled if not is_local(line)), locals=locals_)


def is_local(line: str) -> bool:
    """Whether a requirement is a path, as pip and uv tell them: by a slash, a leading dot, or a wheel's ending."""
    if "://" in line or re.match(r"[A-Za-z0-9._-]+\s*(\[[^\]]*\])?\s*@", line):
        return False
    head = re.split(r"[;\[]", line)[0].strip()
    return head.startswith((".", "/", "~")) or head.endswith(_FILES) or "/" in head


def shown(line: str) -> str:
    """Return a normalised requirement for titles and manifests: an absolute path becomes its last name."""
    if not is_local(line):
        return line
    head = re.split(r"\s*[;\[]", line)[0]
    return f"./{as_written(Path(head))}{line[len(head) :]}" if Path(head).is_absolute() else line


def without_comment(line: object) -> str:
    """Return a line stripped, and without what follows a `#`."""
    if not isinstance(line, str):
        raise InvalidArgumentError(f"Requirement {line!r} is not a string. Write it as one, such as 'pandas<3'.")
    return re.sub(r"(^|\s)#.*", "", line).strip()


def spell(line: str) -> str:
    """Return a requirement in the one spelling that all its spellings share.

    :raises InvalidArgumentError: when it is none, or holds a credential.
    """
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    line = _EDITABLE.sub("", line, count=1) if (editable := bool(_EDITABLE.match(line))) else line
    if is_local(line):
        return _spell_local(line)
    if editable:
        raise InvalidArgumentError(f"{redact(line)!r} can't be editable. Only a path can be: '-e ./my_lib'.")
    try:
        requirement = Requirement(line)
    except InvalidRequirement as error:
        reason = redact(first_line(error))
        raise InvalidArgumentError(f"{redact(line)!r} is not a requirement: {reason}. {_fix(line)}") from None
    check_url(requirement)
    extras = ",".join(sorted(canonicalize_name(extra) for extra in requirement.extras))
    spelled = canonicalize_name(requirement.name) + (f"[{extras}]" if extras else "")
    spelled += f" @ {requirement.url}" if requirement.url else str(requirement.specifier)
    return spelled + (f" ; {requirement.marker}" if requirement.marker else "")


def _spell_local(line: str) -> str:
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


def _local(line: str, base: Path) -> Local:
    match = _LOCAL.fullmatch(line)
    assert match  # noqa: S101 - it was spelled by us
    extras = f"[{match['extras']}]" if match["extras"] else ""
    return Local((base / match["path"]).resolve(), extras, match["marker"] or "")


def _fix(line: str) -> str:
    if line.startswith("-"):
        return (
            "Options of pip or uv don't go here: use VenvEnvironment.from_file() for a requirements.txt, and"
            " index_conn_id for a private index."
        )
    return "Write a name and, if need be, versions: 'pandas', 'pandas>=2,<3', 'pandas[parquet]==2.2.*'; or './my_lib'."


def check_url(requirement: Requirement) -> None:
    """See to it that a requirement's URL leads to a server, and holds no credential.

    :raises InvalidArgumentError: otherwise.
    """
    if not requirement.url:
        return
    scheme = urlsplit(requirement.url).scheme
    if scheme in ("", "file") or scheme.endswith("+file"):
        raise InvalidArgumentError(f"{requirement.name!r} comes from a file. Write its path alone, such as './my_lib'.")
    refuse_credentials(requirement.url, f"requirement {requirement.name!r}")


def refuse_credentials(address: str, what: str) -> None:
    """See to it that a URL holds no credential.

    :param what: whose URL it is, for the error's sentence.
    :raises InvalidArgumentError: when it does.
    """
    if has_credentials(address):
        raise InvalidArgumentError(
            f"The URL of {what} holds a credential, which would end up in manifests and logs. Take it out, and give"
            " the builder access by index_conn_id (an Airflow connection), or by the environment (netrc,"
            " UV_INDEX_<NAME>_USERNAME and _PASSWORD, a git credential helper)."
        )

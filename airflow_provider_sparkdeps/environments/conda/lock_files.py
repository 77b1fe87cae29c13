"""Reads lock files of conda users with rattler: @EXPLICIT lists, pixi.lock and conda-lock.yml."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from airflow_provider_sparkdeps.environments.conda.environment_yml import load_yaml
from airflow_provider_sparkdeps.environments.conda.specs import SUBDIRS, normalize_urls, refuse_credentials
from airflow_provider_sparkdeps.environments.input_files import read_text
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError
from airflow_provider_sparkdeps.utils.redaction import redact
from airflow_provider_sparkdeps.utils.text import first_line

if TYPE_CHECKING:
    from rattler import LockedPackage, LockFile, RepoDataRecord

_EXPLICIT = re.compile(r"^@EXPLICIT\s*$", re.MULTILINE)
_URL = re.compile(r"[a-z][\w+.-]*://[^\s'\"]+", re.IGNORECASE)
# As `conda-lock render` writes it, and as pip writes hashes.
_PIP = re.compile(r"# pip ([\w.-]+) @ (\S+?)(?:(?:#sha256=| --hash=sha256:)([0-9a-f]{64}))?")


@dataclass(frozen=True)
class LockedPackages:
    """The packages of a lock.

    :param conda: the conda packages.
    :param pip: a requirement with a URL for each other package, by name.
    """

    conda: Sequence[RepoDataRecord]
    pip: Mapping[str, str] = field(default_factory=dict)


def digest(path: Path) -> str:
    """Return the sha256 of a lock's text, so that keys need no rattler.

    :raises InvalidArgumentError: if the file can't be read, or contains credentials.
    """
    return hashlib.sha256(_read(path).encode()).hexdigest()


def read_lock(path: Path, *, platform: str, environment: str) -> LockedPackages:
    """Return the packages of an `@EXPLICIT` list, a pixi.lock or a conda-lock.yml.

    :param path: of the file.
    :param platform: platform whose packages are returned, such as "linux-x86_64".
    :param environment: environment of a pixi.lock.
    :raises InvalidArgumentError: if the file can't be read, is not a lock, or has no packages for the platform.
    """
    text = _read(path)
    subdir = SUBDIRS.get(platform, platform)
    if not _EXPLICIT.search(text):
        from rattler import PypiLockedPackage

        packages = _select(_parse(text, path), environment, subdir, path)
        pip = {each.name: _requirement(each, path) for each in packages if isinstance(each, PypiLockedPackage)}
        conda = [_record(each, path) for each in packages if not isinstance(each, PypiLockedPackage)]
        return LockedPackages(conda, pip)
    if environment != "default":
        raise InvalidArgumentError(f"{path} is an @EXPLICIT list and has no environment {environment!r}. Leave it out.")
    return _read_explicit(text, subdir, path)


def _read(path: Path) -> str:
    text = read_text(path)
    for url in dict.fromkeys(_URL.findall(text)):
        refuse_credentials(url, f"A URL in {path}")
    return text


def _read_explicit(text: str, subdir: str, path: Path) -> LockedPackages:
    from rattler.exceptions import ParseExplicitEnvironmentSpecError
    from rattler.explicit_environment import ExplicitEnvironmentSpec

    from airflow_provider_sparkdeps.environments.conda.rattler import explicit_records

    lines = [line for line in map(str.strip, text.splitlines()) if line]
    try:
        # rattler takes an empty line for a URL.
        spec = ExplicitEnvironmentSpec.from_str("\n".join(lines))
    except ParseExplicitEnvironmentSpecError as error:
        raise InvalidArgumentError(f"{path} is not a list of URLs: {redact(first_line(error))}. Correct it.") from None
    if spec.platform and str(spec.platform) != subdir:
        raise InvalidArgumentError(f"{path} is a lock for {spec.platform}, not for {subdir}. Lock for this platform.")
    pip: dict[str, str] = {}
    for line in (line for line in lines if line.startswith("# pip ")):
        match = _PIP.fullmatch(line)
        if match is None or "://" not in match[2] or match[1] in pip:
            raise InvalidArgumentError(
                f"{redact(line)!r} in {path} is not `# pip name @ URL#sha256=...`, as `conda-lock render` writes it"
                " once for each name. Correct it, or remove it and pass pip=[...]."
            )
        pip[match[1]] = f"{match[1]} @ {match[2]}" + (f"#sha256={match[3]}" if match[3] else "")
    return LockedPackages(explicit_records(normalize_urls([each.url for each in spec.packages])), pip)


def _parse(text: str, path: Path) -> LockFile:
    from rattler import LockFile
    from rattler.exceptions import ParseCondaLockError

    try:
        if not re.search(r"^['\"]?package['\"]?:|^\{", text, re.MULTILINE):
            return LockFile.from_path(path)
        data = load_yaml(text, path)
        if not isinstance(data, dict) or not isinstance(data.get("package"), list):
            return LockFile.from_path(path)
        with tempfile.NamedTemporaryFile("w", suffix=".yml") as copy:
            # rattler drops the category of a package. And conda-lock writes a commit as a sha256.
            selected = [each for each in data["package"] if _is_main(each)]
            json.dump({**data, "package": list(map(_without_commit, selected))}, copy, default=str)
            copy.flush()
            return LockFile.from_path(Path(copy.name))
    except (ParseCondaLockError, AttributeError, TypeError) as error:
        raise InvalidArgumentError(
            f"{path} is not a lock that rattler can read: {redact(first_line(error))}. Pass an @EXPLICIT list, a"
            " pixi.lock or a conda-lock.yml. If it is one, lock again, or install another version of py-rattler."
        ) from None


def _is_main(package: dict[str, object]) -> bool:
    return package.get("category", "main") == "main" and not package.get("optional")


def _without_commit(package: dict[str, object]) -> dict[str, object]:
    is_git = str(package.get("url")).startswith("git+")
    return {name: value for name, value in package.items() if name != "hash"} if is_git else package


def _select(lock: LockFile, environment: str, subdir: str, path: Path) -> list[LockedPackage]:
    environments = dict(lock.environments())
    if environment not in environments:
        raise InvalidArgumentError(
            f"{path} has no environment {environment!r}, but {', '.join(sorted(environments)) or 'none'}. Pass one of"
            " them as environment=..., or lock again."
        )
    packages = {each: listed for each, listed in environments[environment].packages_by_platform().items() if listed}
    # A platform of pixi may have another name than conda's.
    found = {each.name: listed for each, listed in packages.items() if str(each.subdir) == subdir}
    if subdir not in found and len(found) != 1:
        named = ", ".join(sorted(each.name for each in packages)) or "no platform"
        raise InvalidArgumentError(
            f"The environment {environment!r} in {path} has packages for {named}, and not for {subdir}. Lock for it."
        )
    return found.get(subdir) or next(iter(found.values()))


def _record(package: LockedPackage, path: Path) -> RepoDataRecord:
    from rattler import CondaLockedBinaryPackage

    # rattler turns file:// URLs into paths.
    if not isinstance(package, CondaLockedBinaryPackage) or not re.match(r"/|[\w+.-]+://", package.location):
        raise InvalidArgumentError(
            f"{package.name} in {path} is not a conda package on a channel, but {package.location}, which can't be"
            " installed. Upload the package to a channel, and lock again."
        )
    return package.repo_data_record()


def _requirement(package: LockedPackage, path: Path) -> str:
    url, _, fragment = package.location.removeprefix("direct+").partition("#")
    if "://" not in url or url.startswith("file:"):
        raise InvalidArgumentError(
            f"{package.name} in {path} is the local project {package.location}, which can't be built here. Upload its"
            " wheel to a package index, and lock again."
        )
    kept = [part for part in fragment.split("&") if part.startswith("subdirectory=")]
    if url.startswith("git+"):
        # pixi writes the commit as fragment, and what was asked for (`rev`, `branch`, `tag`) as query.
        url, _, query = url.partition("?")
        kept += [f"subdirectory={value}" for name, value in parse_qsl(query) if name == "subdirectory"]
        url += f"@{fragment}" if re.fullmatch(r"[0-9a-f]{7,40}", fragment) else ""
        if not re.search(r"@[0-9a-f]{7,40}$", url):
            raise InvalidArgumentError(f"{package.name} in {path} has no commit: {package.location}. Lock again.")
    try:
        hashes = package.hashes
        sha256 = hashes.sha256 if hashes else None
    except AttributeError:  # how rattler says that there are none
        sha256 = None
    kept += [f"sha256={sha256.hex()}"] if sha256 and not url.startswith("git+") else []
    return f"{package.name} @ {url}" + (f"#{'&'.join(kept)}" if kept else "")

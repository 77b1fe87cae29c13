"""Checks conda specs, channels and package URLs. What a spec means is rattler's to say."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from airflow_provider_sparkdeps.environments.base import check_env_vars, list_of_strings
from airflow_provider_sparkdeps.environments.input_files import strip_comment
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError
from airflow_provider_sparkdeps.utils.redaction import has_credentials, redact
from airflow_provider_sparkdeps.utils.text import first_line

if TYPE_CHECKING:
    from rattler import MatchSpec

SUBDIRS = {
    "linux-x86_64": "linux-64",
    "linux-aarch64": "linux-aarch64",
    "linux-ppc64le": "linux-ppc64le",
    "darwin-x86_64": "osx-64",
    "darwin-arm64": "osx-arm64",
}
_VERSION = r"([<>]=?|[!=]=) ?\d[\d.]*"
# Specs that need not be read when a DAG is parsed, as rattler takes long to import.
_PLAIN = re.compile(rf"[A-Za-z0-9_][\w.-]*( ?={{1,2}}\d[\d.]*(\.\*)?| ?{_VERSION}(, ?{_VERSION})*)?", re.ASCII)
_PYTHON = re.compile(r"(?:.*::)?python(?:[\s=<>!~\[].*)?", re.IGNORECASE)
_PACKAGE_URL = re.compile(
    r"\w[\w+.-]*://\S+/[^\s/#]+(?:-[^\s/#-]+){2}\.(?:conda|tar\.bz2)(?:#(?:[0-9a-f]{32}|sha256:[0-9a-f]{64}))?"
)
_MINORS = [f"3.{minor}" for minor in range(9, 15)]


@dataclass(frozen=True)
class CondaPackages:
    """The packages of an environment, checked. Specs stay as they are written, but for whitespace and order.

    :param dependencies: conda specs.
    :param channels: names, URLs and absolute paths, in order of priority.
    :param pip: PEP 508 strings.
    :param explicit: URLs of packages, instead of dependencies.
    :param variables: environment variables.
    :raises InvalidArgumentError: if an argument is invalid.
    """

    dependencies: Sequence[str] = ()
    channels: Sequence[str] = ()
    pip: Sequence[str] = ()
    explicit: Sequence[str] = ()
    variables: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from airflow_provider_sparkdeps.environments.requirements.pep508 import normalize_requirements

        pip = list_of_strings(self.pip, "pip", '["requests>=2"]')
        object.__setattr__(self, "dependencies", normalize_specs(self.dependencies))
        object.__setattr__(self, "channels", normalize_channels(self.channels))
        object.__setattr__(self, "pip", normalize_requirements(pip, paths=False) if pip else ())
        object.__setattr__(self, "explicit", normalize_urls(self.explicit))
        object.__setattr__(self, "variables", check_env_vars(self.variables, "variables"))


def normalize_specs(dependencies: object) -> tuple[str, ...]:
    """Return conda specs sorted, without comments, superfluous whitespace and duplicates.

    :param dependencies: a list of strings, such as `["pandas <3", "pyarrow=18.*"]`.
    :raises InvalidArgumentError: if it is not a list of conda specs. Without rattler, that is found out by the build.
    """
    listed = list_of_strings(dependencies, "dependencies", '["pandas <3"]')
    lines = sorted({" ".join(strip_comment(line).split()) for line in listed} - {""})
    for line in lines:
        refuse_credentials(line, "A dependency")
        if line.startswith(("-", "/", ".")) and "::" not in line:
            raise _not_a_spec(line, "it is an option or a path")
        if "://" in line and "::" not in line:
            raise _not_a_spec(line, "it is a URL; pass URLs of packages as explicit=[...]")
        if not _PLAIN.fullmatch(line) and find_spec("rattler"):
            read_spec(line)
    return tuple(lines)


def read_spec(line: str) -> MatchSpec:
    """Return what rattler reads.

    :raises InvalidArgumentError: if it is not a conda spec, or if rattler and conda would not read the same.
    """
    from rattler import MatchSpec
    from rattler.exceptions import InvalidChannelError, InvalidMatchSpecError, InvalidPackageNameError

    try:
        # Not strict: conda, too, reads `six=1.17.0=py_0`, `pip=23.*` and `six 1.17`.
        spec = MatchSpec(line)
    except (InvalidChannelError, InvalidMatchSpecError, InvalidPackageNameError) as error:
        raise _not_a_spec(line, redact(first_line(error))) from None
    if re.search(r"[\s=;,]", spec.build or ""):
        raise _not_a_spec(line, f"its build would be {spec.build!r}")
    if re.search(r">\s*\d[\w.]*\.\*", line):
        raise _not_a_spec(line, "`>` and `.*` exclude each other")
    return spec


def _not_a_spec(line: str, reason: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{redact(line)!r} is not a conda spec: {reason}. Write a name and optionally versions: 'pandas',"
        " 'pandas >=2,<3', 'pandas=2.2.*', 'python=3.12'. Requirements for pip go into pip=[...]."
    )


def normalize_channels(channels: object) -> tuple[str, ...]:
    """Return channels normalized, in their order of priority.

    :param channels: a list of names, URLs and absolute paths.
    :raises InvalidArgumentError: if it is not a list of channels, or if a URL contains credentials.
    """
    found = []
    for each in list_of_strings(channels, "channels", '["conda-forge"]'):
        channel = each.strip().rstrip("/")
        refuse_credentials(channel, "A channel")
        if channel.startswith("/"):
            channel = Path(channel).as_uri()
        scheme = urlsplit(channel).scheme
        # `local` is what conda-build has built on this machine.
        if not channel or channel == "local" or re.match(r"[.~]|.*\$", channel) or (scheme and "://" not in channel):
            raise InvalidArgumentError(
                f"{each!r} is not a channel. Write a name ('conda-forge'), a URL ('https://...', 's3://...') or an"
                " absolute path; environment variables are not expanded."
            )
        # `nodefaults` tells conda to use no other channels; here no others are used anyway.
        if channel != "nodefaults":
            found.append(channel)
    return tuple(dict.fromkeys(found))


def refuse_credentials(url: str, what: str) -> None:
    """Raise InvalidArgumentError, without the secret, if a URL contains a user, a password or a token."""
    if has_credentials(url):
        raise InvalidArgumentError(
            f"{what} ({redact(url)}) contains credentials, which would be written to manifests and logs. Move them to"
            " an Airflow connection, and pass its id in channel_conn_ids=[...]."
        )


def check_python(specs: Iterable[str], minor: str) -> None:
    """Raise InvalidArgumentError if no release of a minor version of Python meets the specs.

    Without rattler, that is found out by the solver.
    """
    pins = [line for line in specs if _PYTHON.fullmatch(line) and line.lower() not in ("python", f"python={minor}")]
    if not pins or not find_spec("rattler"):
        return
    from rattler import Version, VersionSpec

    wanted = [VersionSpec(spec.version) for spec in map(read_spec, pins) if spec.version]

    def fits(minor: str) -> bool:
        releases = [Version(f"{minor}.{patch}") for patch in range(100)]
        return any(all(each.matches(release) for each in wanted) for release in releases)

    allowed = [each for each in _MINORS if fits(each)]
    # What only a pre-release meets is left to the solver.
    if fits(minor) or (not allowed and re.search(r"\d(a|b|rc)\d", " ".join(pins))):
        return
    raise InvalidArgumentError(
        f"The dependency {', '.join(map(repr, pins))} contradicts Python {minor} (python=..., by default the worker's"
        " version). Executors must run the same minor version as the worker that pickles the UDFs. "
        + (
            f'It allows {", ".join(allowed)}: set python="{allowed[-1]}" and run the task on a worker with that Python,'
            f" or allow {minor} in the dependency."
            if allowed
            else f"No Python from {_MINORS[0]} to {_MINORS[-1]} meets it. Correct the dependency."
        )
    )


def normalize_urls(explicit: object) -> tuple[str, ...]:
    """Return URLs of packages with their hashes, sorted.

    :param explicit: a list of URLs, each with an optional `#<md5>` or `#sha256:<sha256>`.
    :raises InvalidArgumentError: if one is not the URL of a conda package, or if it contains credentials.
    """
    found = set()
    for each in list_of_strings(explicit, "explicit", '["https://.../six-1.17.0-pyhe01879c_1.conda#sha256:..."]'):
        refuse_credentials(each, "A package")
        if not _PACKAGE_URL.fullmatch(each.strip()):
            raise InvalidArgumentError(
                f"{each!r} is not the URL of a conda package. Write a URL that ends in `/name-version-build.conda` or"
                " `.tar.bz2`, and then `#<md5>` or `#sha256:<sha256>`."
            )
        found.add(each.strip())
    return tuple(sorted(found))

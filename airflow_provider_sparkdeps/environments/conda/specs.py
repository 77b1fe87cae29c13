"""Normalizes and checks conda specs, channels and package URLs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from airflow_provider_sparkdeps.environments.base import list_of_strings
from airflow_provider_sparkdeps.environments.input_files import strip_comment
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError
from airflow_provider_sparkdeps.utils.redaction import has_credentials, redact

SUBDIRS = {
    "linux-x86_64": "linux-64",
    "linux-aarch64": "linux-aarch64",
    "linux-ppc64le": "linux-ppc64le",
    "darwin-x86_64": "osx-64",
    "darwin-arm64": "osx-arm64",
}
_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_SPEC = re.compile(rf"(?:(?P<channel>[^\s:]+(?:://[^\s:]+)?)::)?(?P<name>{_NAME})\s*(?P<rest>.*)", re.DOTALL)
_HASH = re.compile(r"[0-9a-f]{32}|sha256:[0-9a-f]{64}")
_ARCHIVE = (".conda", ".tar.bz2")


@dataclass(frozen=True)
class CondaPackages:
    """The packages of an environment, normalized and checked.

    :param dependencies: conda specs.
    :param channels: names, URLs and absolute paths, in order of priority.
    :param pip: PEP 508 strings.
    :param explicit: URLs of packages, instead of dependencies.
    :raises InvalidArgumentError: if an argument is invalid.
    """

    dependencies: Sequence[str] = ()
    channels: Sequence[str] = ()
    pip: Sequence[str] = ()
    explicit: Sequence[str] = ()

    def __post_init__(self) -> None:
        from airflow_provider_sparkdeps.environments.requirements.pep508 import normalize_requirements

        pip = list_of_strings(self.pip, "pip", '["requests>=2"]')
        object.__setattr__(self, "dependencies", normalize_specs(self.dependencies))
        object.__setattr__(self, "channels", normalize_channels(self.channels))
        object.__setattr__(self, "pip", normalize_requirements(pip, paths=False) if pip else ())
        object.__setattr__(self, "explicit", normalize_urls(self.explicit))

    def check_channels(self) -> None:
        """Raise InvalidArgumentError if there are dependencies, but no channels to find them in."""
        if self.dependencies and not self.channels:
            raise InvalidArgumentError('channels is empty. Write for example channels=["conda-forge"].')


def normalize_specs(dependencies: object) -> tuple[str, ...]:
    """Return conda specs normalized and sorted, without comments and duplicates.

    :param dependencies: a list of strings, such as `["pandas <3", "pyarrow=18.*"]`.
    :raises InvalidArgumentError: if it is not a list of conda specs.
    """
    lines = map(strip_comment, list_of_strings(dependencies, "dependencies", '["pandas <3"]'))
    return tuple(sorted({_normalize_spec(line) for line in lines if line}))


def _normalize_spec(line: str) -> str:
    match = _SPEC.fullmatch(line)
    if match is None or line.startswith(("-", "/", ".")):
        raise InvalidArgumentError(
            f"{redact(line)!r} is not a conda spec. Write a name and optionally versions: 'pandas', 'pandas >=2,<3',"
            " 'pandas=2.2.*', 'python=3.12'. Requirements for pip go into pip=[...]."
        )
    channel, name, rest = match["channel"], match["name"].lower(), match["rest"].strip()
    if channel:
        refuse_credentials(channel, f"The channel of {name!r}")
    # In brackets, regular expressions and groups, whitespace and order may be significant.
    if rest and not re.search(r"[\[\]^$(]", rest):
        rest = re.sub(r"\s*([,|=<>!~]+)\s*", r"\1", rest)
        version, *build = rest.split()
        if "|" not in version:
            version = ",".join(sorted(set(version.split(","))))
        # A version without an operator is exact; after a single `=` it is a prefix.
        version = f"=={version}" if re.fullmatch(r"\d[\w.!+]*", version) else version
        rest = " ".join([version, *build])
    return (f"{channel}::" if channel else "") + f"{name} {rest}".strip()


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
        if not channel or channel.startswith((".", "~")) or (scheme and "://" not in channel):
            raise InvalidArgumentError(
                f"{each!r} is not a channel. Write a name ('conda-forge'), a URL ('https://...', 's3://...') or an"
                " absolute path."
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


def is_secret(name: str, value: str) -> bool:
    """Whether the name or the value of an environment variable looks like that of a credential."""
    return has_credentials(f"?{name}={value}")


def check_python(specs: Iterable[str], minor: str) -> None:
    """Raise InvalidArgumentError if no release of a minor version of Python meets the specs.

    Specs that this function can't read are left to the solver.
    """
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    releases = [f"{minor}.{patch}" for patch in range(60)]
    for spec in specs:
        name, _, rest = spec.rpartition("::")[2].partition(" ")
        version = rest.split(" ")[0]
        # `=3.12=*_cpython` has a version and a build.
        version = re.sub(r"^(=+[^=]+)=.*", r"\1", version)
        if name != "python" or not version or "[" in version:
            continue
        try:
            allowed = [SpecifierSet(",".join(map(_to_pep440, part.split(",")))) for part in version.split("|")]
        except InvalidSpecifier:
            continue
        if not any(each.contains(release) for each in allowed for release in releases):
            requested = re.search(r"3\.\d+", version)
            raise InvalidArgumentError(
                f"The dependency {spec!r} contradicts Python {minor} (python=..., by default the worker's version)."
                " UDFs need the Python that pickles them. Remove the dependency, or set"
                f' python="{requested[0] if requested else "3.x"}" and run the task on that version.'
            )


def _to_pep440(constraint: str) -> str:
    match = re.fullmatch(r"(==|=|)(\d[\d.]*?)(\.?\*)?", constraint)
    if match is None:
        return constraint
    operator, number, star = match.groups()
    return f"=={number}.*" if star or operator == "=" else f"=={number}"


def normalize_urls(explicit: object) -> tuple[str, ...]:
    """Return URLs of packages with their hashes, sorted.

    :param explicit: a list of URLs, each with an optional `#<md5>` or `#sha256:<sha256>`.
    :raises InvalidArgumentError: if one is not the URL of a conda package, or if it contains credentials.
    """
    found = set()
    for each in list_of_strings(explicit, "explicit", '["https://.../six-1.17.0-pyhe01879c_1.conda#sha256:..."]'):
        url, _, digest = each.strip().partition("#")
        refuse_credentials(url, "A package")
        if not url.endswith(_ARCHIVE) or "://" not in url or (digest and not _HASH.fullmatch(digest)):
            raise InvalidArgumentError(
                f"{each!r} is not the URL of a conda package. Write a URL that ends in `.conda` or `.tar.bz2`, and"
                " then `#<md5>` or `#sha256:<sha256>`."
            )
        if url.rpartition("/")[2].count("-") < 2:
            raise InvalidArgumentError(
                f"{each!r} is not the URL of a conda package: its file name is not name-version-build. Correct it."
            )
        found.add(each.strip())
    return tuple(sorted(found))

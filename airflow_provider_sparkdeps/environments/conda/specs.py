"""What conda users write (specs, channels, environment.yml, lock files), brought into one spelling."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError
from airflow_provider_sparkdeps.utils.redaction import redact

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


def specs(dependencies: object) -> tuple[str, ...]:
    """Return conda specs sorted and in one spelling, without comments and repetitions.

    :param dependencies: a list of strings, such as `["pandas <3", "pyarrow=18.*"]`.
    :raises InvalidArgumentError: when it isn't a list, or holds what is no spec.
    """
    lines = (_without_comment(each) for each in strings(dependencies, "dependencies", '["pandas <3"]'))
    return tuple(sorted({_spec(line) for line in lines if line}))


def _spec(line: str) -> str:
    found = _SPEC.fullmatch(line)
    if found is None or line.startswith(("-", "/", ".")):
        raise InvalidArgumentError(
            f"{redact(line)!r} is not a conda spec. Write a name and, if need be, versions: 'pandas', 'pandas >=2,<3',"
            " 'pandas=2.2.*', 'python=3.12'; requirements of pip go into pip=[...]."
        )
    channel, name, rest = found["channel"], found["name"].lower(), found["rest"].strip()
    if channel:
        refuse_credentials(channel, f"The channel of {name!r}")
    # With brackets, regular expressions or alternatives, white space and order may mean something.
    if rest and not re.search(r"[\[\]^$(]", rest):
        rest = re.sub(r"\s*([,|=<>!~]+)\s*", r"\1", rest)
        version, *build = rest.split()
        if "|" not in version:
            version = ",".join(sorted(set(version.split(","))))
        # A version that stands by itself is an exact one; after one `=`, it is a beginning.
        version = f"=={version}" if re.fullmatch(r"\d[\w.!+]*", version) else version
        rest = " ".join([version, *build])
    return (f"{channel}::" if channel else "") + f"{name} {rest}".strip()


def _without_comment(line: str) -> str:
    return re.sub(r"(^|\s)#.*", "", line).strip()


def strings(value: object, field: str, example: str) -> list[str]:
    """Return a list of strings as it is; anything else is a InvalidArgumentError that shows an example."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise InvalidArgumentError(f"{field}={value!r} is not a list. Write {field}={example}.")
    listed = list(value)
    wrong = next((each for each in listed if not isinstance(each, str)), None)
    if wrong is not None:
        raise InvalidArgumentError(f"{field} holds {wrong!r}, which is not a string. Write {field}={example}.")
    return listed


def channels(value: object) -> tuple[str, ...]:
    """Return channels in their order, which is that of their priority, in one spelling.

    :param value: a list of names, URLs and absolute paths.
    :raises InvalidArgumentError: when it isn't one, or a URL holds a credential.
    """
    found = []
    for each in strings(value, "channels", '["conda-forge"]'):
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
        # conda's word for "no channels but these", which is always so here.
        if channel != "nodefaults":
            found.append(channel)
    return tuple(dict.fromkeys(found))


def refuse_credentials(url: str, what: str) -> None:
    """Raise a InvalidArgumentError, which doesn't repeat it, when a URL holds a user, a password or a token."""
    parts = urlsplit(url)
    if "@" in parts.netloc or re.search(r"(^|/)t/[^/]+/", parts.path) or parts.query:
        raise InvalidArgumentError(
            f"{what} ({redact(url)}) holds a credential, which would end up in manifests and logs. Take it out, put it"
            " into an Airflow connection, and name that in channel_conn_ids=[...]."
        )


def check_python(specs: Iterable[str], minor: str) -> None:
    """Raise a InvalidArgumentError when no release of a minor version of Python meets the specs.

    What this can't read is left to the solver.
    """
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    releases = [f"{minor}.{patch}" for patch in range(60)]
    for spec in specs:
        name, _, rest = spec.rpartition("::")[2].partition(" ")
        version = rest.split(" ")[0]
        # `=3.12=*_cpython`: version and build.
        version = re.sub(r"^(=+[^=]+)=.*", r"\1", version)
        if name != "python" or not version or "[" in version:
            continue
        try:
            allowed = [SpecifierSet(",".join(map(_as_pip_says, part.split(",")))) for part in version.split("|")]
        except InvalidSpecifier:
            continue
        if not any(each.contains(release) for each in allowed for release in releases):
            wanted = re.search(r"3\.\d+", version)
            raise InvalidArgumentError(
                f"The dependency {spec!r} contradicts Python {minor}, which is"
                " that of the worker or of python=...: UDFs are pickled by it. Leave the dependency out, or say"
                f' python="{wanted[0] if wanted else "3.x"}" and run the task on that.'
            )


def _as_pip_says(constraint: str) -> str:
    found = re.fullmatch(r"(==|=|)(\d[\d.]*?)(\.?\*)?", constraint)
    if found is None:
        return constraint
    operator, number, star = found.groups()
    return f"=={number}.*" if star or operator == "=" else f"=={number}"


def environment_yml(text: str, what: str) -> dict[str, Any]:
    """Return the arguments that an `environment.yml` stands for: dependencies, channels and pip.

    :raises InvalidArgumentError: when it is no such file.
    """
    data = load_yaml(text, what)
    listed = data.get("dependencies") if isinstance(data, dict) else None
    if not isinstance(listed, list):
        raise InvalidArgumentError(f"{what} is not an environment.yml: it has no list of `dependencies`.")
    sections = [each["pip"] for each in listed if isinstance(each, dict) and set(each) == {"pip"}]
    pip = [line for section in sections for line in strings(section, "pip", '["requests"]')]
    plain = [each for each in listed if not (isinstance(each, dict) and set(each) == {"pip"})]
    return {
        # conda's way of saying that pip is to be installed; its requirements are installed without it.
        "dependencies": strings(plain, "dependencies", '["pandas <3"]'),
        "channels": strings(data.get("channels") or [], "channels", '["conda-forge"]'),
        "pip": pip,
    }


def locked_packages(text: str, what: str, *, platform: str, environment: str) -> dict[str, Any]:
    """Return the arguments that a lock stands for: an `@EXPLICIT` list, a pixi.lock, a conda-lock.yml.

    :param platform: whose packages are meant.
    :param environment: which of the environments of a pixi.lock.
    :raises InvalidArgumentError: when it is none, or has nothing for this platform.
    """
    if re.search(r"^@EXPLICIT\s*$", text, re.MULTILINE):
        lines = [re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines()]
        return {"locked": [line for line in lines if line and line != "@EXPLICIT"]}
    data = load_yaml(text, what)
    subdir = SUBDIRS.get(platform, platform)
    listed = _listed(data, subdir, environment) if isinstance(data, dict) else None
    if listed is None:
        raise InvalidArgumentError(
            f"{what} is not a lock of conda for {subdir}: neither an @EXPLICIT list, nor a pixi.lock with packages of"
            f" environment {environment!r} for it, nor a conda-lock.yml."
        )
    return {"locked": listed[0], "pip": listed[1]}


def _listed(data: dict[str, Any], subdir: str, environment: str) -> tuple[list[str], list[str]] | None:
    packages = data.get("packages")
    try:
        if "environments" in data and isinstance(packages, list):
            chosen = data["environments"][environment]["packages"][subdir]
            facts = {each.get("conda") or each.get("pypi"): each for each in packages}
            conda = [facts[each["conda"]] for each in chosen if "conda" in each]
            pypi = [facts[each["pypi"]] for each in chosen if "pypi" in each]
            return [_url(each["conda"], each) for each in conda], [_of_pypi(each) for each in pypi]
        if isinstance(data.get("package"), list):
            mine = [each for each in data["package"] if each["platform"] == subdir]
            conda = [_url(each["url"], each.get("hash") or {}) for each in mine if each["manager"] == "conda"]
            return conda, [f"{each['name']}=={each['version']}" for each in mine if each["manager"] == "pip"]
    except (KeyError, TypeError, AttributeError):
        return None
    return None


def _of_pypi(package: dict[str, Any]) -> str:
    place = str(package["pypi"]).removeprefix("direct+")
    # A package of an index is known by its version; others only by where they are.
    if place.endswith((".whl", ".tar.gz")) and place == package["pypi"] and "://" in place:
        return f"{package['name']}=={package['version']}"
    return f"{package['name']} @ {place}"


def _url(url: str, hashes: dict[str, Any]) -> str:
    if hashes.get("sha256"):
        return f"{url}#sha256:{hashes['sha256']}"
    return f"{url}#{hashes['md5']}" if hashes.get("md5") else url


def urls(value: object) -> tuple[str, ...]:
    """Return URLs of packages with their hashes, sorted.

    :raises InvalidArgumentError: when one is no package's, or holds a credential.
    """
    found = set()
    for each in strings(value, "locked", '["https://.../six-1.17.0-pyhe01879c_1.conda#sha256:..."]'):
        url, _, digest = each.strip().partition("#")
        refuse_credentials(url, "A package")
        if not url.endswith(_ARCHIVE) or "://" not in url or (digest and not _HASH.fullmatch(digest)):
            raise InvalidArgumentError(
                f"{each!r} is not a conda package. Write its URL, up to `.conda` or `.tar.bz2`, and then `#` with its"
                " md5, or `#sha256:` with its sha256."
            )
        if url.rpartition("/")[2].count("-") < 2:
            raise InvalidArgumentError(f"{each!r} is not a conda package: its file is not named name-version-build.")
        found.add(each.strip())
    return tuple(sorted(found))


def load_yaml(text: str, what: str) -> Any:
    """Return what YAML says, as plain data.

    :raises InvalidArgumentError: when it is none.
    """
    import yaml

    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe
    except yaml.YAMLError as error:
        raise InvalidArgumentError(f"{what} is not YAML: {redact(' '.join(str(error).split()))}.") from None


def read(path: str | Path, what: str) -> str:
    """Return a file's text.

    :raises InvalidArgumentError: when it can't be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgumentError(f"{what} can't be read: {error}.") from None

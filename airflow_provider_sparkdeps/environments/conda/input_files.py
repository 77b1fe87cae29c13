"""Reads files that conda users write: environment.yml, explicit lists and lock files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from airflow_provider_sparkdeps.environments.base import list_of_strings
from airflow_provider_sparkdeps.environments.conda.specs import SUBDIRS
from airflow_provider_sparkdeps.environments.input_files import read_text, strip_comment
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError
from airflow_provider_sparkdeps.utils.redaction import redact


def read_environment_yml(path: Path) -> dict[str, Any]:
    """Return the dependencies, channels and pip requirements of an `environment.yml`.

    :raises InvalidArgumentError: if the file can't be read or is not an environment.yml.
    """
    data = _load_yaml(read_text(path), path)
    listed = data.get("dependencies") if isinstance(data, dict) else None
    if not isinstance(listed, list):
        raise InvalidArgumentError(f"{path} is not an environment.yml: it has no list of `dependencies`. Add one.")
    sections = [each["pip"] for each in listed if isinstance(each, dict) and set(each) == {"pip"}]
    specs = [each for each in listed if not (isinstance(each, dict) and set(each) == {"pip"})]
    return {
        "dependencies": list_of_strings(specs, "dependencies", '["pandas <3"]'),
        "channels": list_of_strings(data.get("channels") or [], "channels", '["conda-forge"]'),
        "pip": [line for section in sections for line in list_of_strings(section, "pip", '["requests"]')],
    }


def read_lock(path: Path, *, platform: str, environment: str) -> dict[str, Any]:
    """Return the package URLs and pip requirements of an `@EXPLICIT` list, a pixi.lock or a conda-lock.yml.

    :param path: of the file.
    :param platform: platform whose packages are returned, such as "linux-x86_64".
    :param environment: environment of a pixi.lock.
    :raises InvalidArgumentError: if the file can't be read, is not a lock, or has no packages for the platform.
    """
    text = read_text(path)
    if re.search(r"^@EXPLICIT\s*$", text, re.MULTILINE):
        lines = [strip_comment(line) for line in text.splitlines()]
        return {"explicit": [line for line in lines if line and line != "@EXPLICIT"]}
    data = _load_yaml(text, path)
    subdir = SUBDIRS.get(platform, platform)
    listed = _locked_packages(data, subdir, environment) if isinstance(data, dict) else None
    if listed is None:
        raise InvalidArgumentError(
            f"{path} is not a conda lock for {subdir}: it is neither an @EXPLICIT list, nor a pixi.lock whose"
            f" environment {environment!r} has packages for it, nor a conda-lock.yml. Lock for this platform."
        )
    return {"explicit": listed[0], "pip": listed[1]}


def _locked_packages(data: dict[str, Any], subdir: str, environment: str) -> tuple[list[str], list[str]] | None:
    packages = data.get("packages")
    try:
        if "environments" in data and isinstance(packages, list):
            selected = data["environments"][environment]["packages"][subdir]
            details = {each.get("conda") or each.get("pypi"): each for each in packages}
            conda = [details[each["conda"]] for each in selected if "conda" in each]
            pypi = [details[each["pypi"]] for each in selected if "pypi" in each]
            return [_url(each["conda"], each) for each in conda], [_pypi_requirement(each) for each in pypi]
        if isinstance(data.get("package"), list):
            selected = [each for each in data["package"] if each["platform"] == subdir]
            urls = [_url(each["url"], each.get("hash") or {}) for each in selected if each["manager"] == "conda"]
            return urls, [f"{each['name']}=={each['version']}" for each in selected if each["manager"] == "pip"]
    except (KeyError, TypeError, AttributeError):
        return None
    return None


def _pypi_requirement(package: dict[str, Any]) -> str:
    location = str(package["pypi"]).removeprefix("direct+")
    # A package from an index is identified by its version, any other by its URL or path.
    if location.endswith((".whl", ".tar.gz")) and location == package["pypi"] and "://" in location:
        return f"{package['name']}=={package['version']}"
    return f"{package['name']} @ {location}"


def _url(url: str, hashes: dict[str, Any]) -> str:
    if hashes.get("sha256"):
        return f"{url}#sha256:{hashes['sha256']}"
    return f"{url}#{hashes['md5']}" if hashes.get("md5") else url


def _load_yaml(text: str, path: Path) -> Any:
    import yaml

    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe
    except yaml.YAMLError as error:
        raise InvalidArgumentError(f"{path} is not YAML: {redact(' '.join(str(error).split()))}. Correct it.") from None

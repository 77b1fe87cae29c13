"""Reads lock files of conda users: @EXPLICIT lists, pixi.lock and conda-lock.yml."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from airflow_provider_sparkdeps.environments.conda.environment_yml import load_yaml
from airflow_provider_sparkdeps.environments.conda.specs import SUBDIRS
from airflow_provider_sparkdeps.environments.input_files import read_text, strip_comment
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError


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
    data = load_yaml(text, path)
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

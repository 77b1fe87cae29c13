"""Reads environment.yml files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow_provider_sparkdeps.environments.base import list_of_strings
from airflow_provider_sparkdeps.environments.input_files import read_text
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError
from airflow_provider_sparkdeps.utils.redaction import redact


def read_environment_yml(path: Path) -> dict[str, Any]:
    """Return the dependencies, channels and pip requirements of an `environment.yml`.

    :raises InvalidArgumentError: if the file can't be read or is not an environment.yml.
    """
    data = load_yaml(read_text(path), path)
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


def load_yaml(text: str, path: Path) -> Any:
    """Return the data of a YAML file.

    :param path: of the file, for the message.
    :raises InvalidArgumentError: if the text is not YAML.
    """
    import yaml

    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe
    except yaml.YAMLError as error:
        raise InvalidArgumentError(f"{path} is not YAML: {redact(' '.join(str(error).split()))}. Correct it.") from None

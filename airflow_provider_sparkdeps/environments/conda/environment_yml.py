"""Reads environment.yml files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow_provider_sparkdeps.environments.base import check_env_vars, list_of_strings
from airflow_provider_sparkdeps.environments.input_files import read_text, strip_comment
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError
from airflow_provider_sparkdeps.utils.redaction import redact

# `name` and `prefix` say where conda would install the environment.
_KEYS = ("name", "prefix", "channels", "dependencies", "variables")
_OPTIONS = {
    ("-r", "--requirement"): "Write the requirements of that file into the section.",
    ("-c", "--constraint"): "Write the versions into the section.",
    ("-i", "--index-url", "--extra-index-url"): (
        "Pass the index as index_conn_id=..., or set UV_DEFAULT_INDEX or UV_INDEX on the worker that builds."
    ),
    ("-f", "--find-links"): "Set UV_FIND_LINKS on the worker that builds, or write `name @ URL`.",
    ("-e", "--editable"): "Upload a wheel to a package index, and write its name.",
}


def read_environment_yml(path: Path) -> dict[str, Any]:
    """Return the dependencies, channels, pip requirements and variables of an `environment.yml`.

    :raises InvalidArgumentError: if the file can't be read, or contains what can't be installed.
    """
    text = read_text(path)
    data = load_yaml(text, path)
    listed = data.get("dependencies") if isinstance(data, dict) else None
    if not isinstance(listed, list):
        raise InvalidArgumentError(f"{path} is not an environment.yml: it has no list of `dependencies`. Add one.")
    if unknown := [str(key) for key in data if key not in _KEYS]:
        raise InvalidArgumentError(
            f"{path} has `{'`, `'.join(unknown)}`, which conda does not know and would ignore. Remove that. Indexes for"
            " pip are passed as index_conn_id=..., and the platform as platform=...."
        )
    if twice := _first_duplicate(text):
        raise InvalidArgumentError(f"{path} has the key `{twice}` more than once. Remove all but one.")
    pip: list[str] = []
    for section in (each for each in listed if isinstance(each, dict)):
        if set(section) != {"pip"}:
            raise InvalidArgumentError(
                f"{path} has `{', '.join(map(str, section))}:` in its dependencies. Only conda specs and one `pip:`"
                " section can be there. Remove it, or write a conda spec."
            )
        pip += list_of_strings(section["pip"] or [], "pip", '["requests"]')
    for line in map(strip_comment, pip):
        if line.startswith("-"):
            option = line.replace("=", " ").split()[0]
            advice = next((text for names, text in _OPTIONS.items() if option in names), "Remove it.")
            raise InvalidArgumentError(
                f"{path} has the option {redact(line)!r} in its `pip:` section, which is not supported. {advice}"
            )
    return {
        "dependencies": list_of_strings([each for each in listed if not isinstance(each, dict)], "dependencies", "[]"),
        "channels": list_of_strings(data.get("channels") or [], "channels", '["conda-forge"]'),
        "pip": pip,
        "variables": _variables(data.get("variables") or {}, path),
    }


def _first_duplicate(text: str) -> str | None:
    """Return a key that is twice in a mapping of a YAML file, of which PyYAML drops one and conda refuses both."""
    import yaml

    root = yaml.compose(text, Loader=yaml.SafeLoader)
    for mapping in (root, *(value for _, value in root.value)):
        names = [key.value for key, _ in mapping.value] if isinstance(mapping, yaml.MappingNode) else []
        if twice := next((name for name in names if names.count(name) > 1), None):
            return str(twice)
    return None


def _variables(variables: object, path: Path) -> dict[str, str]:
    if not isinstance(variables, dict):
        raise InvalidArgumentError(f"`variables` in {path} is not a mapping. Write `NAME: value` lines.")
    for name, value in variables.items():
        # `1.10`, `010` or `yes` would not be the text that is in the file.
        if not isinstance(name, str) or not (isinstance(value, str) or type(value) is int):
            raise InvalidArgumentError(
                f"The variable {name} in {path} is {value!r} in YAML, and not a text. Write it in quotes."
            )
    return check_env_vars({name: str(value) for name, value in variables.items()}, f"`variables` in {path}")


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

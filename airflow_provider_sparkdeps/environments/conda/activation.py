"""Finds the environment variables that activating a conda environment sets."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from airflow_provider_sparkdeps.environments.base import check_env_vars
from airflow_provider_sparkdeps.environments.context import PREFIX_TOKEN, BuildContext
from airflow_provider_sparkdeps.exceptions import BuildError, InvalidArgumentError
from airflow_provider_sparkdeps.utils.processes import run
from airflow_provider_sparkdeps.utils.text import shorten_output

_STATE = "conda-meta/state"
_PACKAGES_VARIABLES = "etc/conda/env_vars.d"
_SCRIPTS = "etc/conda/activate.d"
# The value of a variable that `conda env config vars unset` has removed.
_UNSET = "***unset***"
_BOOKKEEPING = re.compile(r"PATH|PS1|SHLVL|PWD|OLDPWD|CONDA_.*|_.*")
# The variables that the script leaves follow its output.
_SEPARATOR = "\0\0"
_COMMAND = r""". "$0"; __status=$?; printf '\0\0'; /usr/bin/env -0; exit "$__status" """


def input_files(prefix: Path) -> Iterator[Path]:
    """Yield the files of an environment that decide what its activation sets."""
    yield from sorted([*(prefix / _PACKAGES_VARIABLES).glob("*.json"), *(prefix / _SCRIPTS).glob("*.sh")])
    if (prefix / _STATE).is_file():
        yield prefix / _STATE


def env_vars(prefix: Path, variables: Mapping[str, str], context: BuildContext) -> dict[str, str]:
    """Return the variables that `conda activate` would set, with `PREFIX_TOKEN` for the path of the environment.

    As in conda: variables of packages, those of `conda env config vars set`, those of the file, and then the scripts
    of packages, which are run. But what the file says is not changed by a script.

    :param prefix: an installed environment.
    :param variables: of the file.
    :param context: its `report` is called for each variable that is left out, because Python workers can't have it.
    :raises BuildError: if a script fails; with its output.
    """
    path = f"{prefix}/bin:/usr/local/bin:/usr/bin:/bin"
    started = {"PATH": path, "CONDA_PREFIX": str(prefix), "HOME": "/nonexistent"}
    found = {**started, **_declared(prefix), **variables}
    for script in sorted((prefix / _SCRIPTS).glob("*.sh")):
        found = _run(script, found, prefix, context)
    changed = {name: value for name, value in found.items() if started.get(name) != value}
    named = {name: value for name, value in changed.items() if not _BOOKKEEPING.fullmatch(name)}
    paths = "|".join(sorted({re.escape(str(prefix)), re.escape(os.path.realpath(prefix))}))
    kept = {}
    for name, value in sorted(named.items()):
        try:
            check_env_vars({name: value}, "the activation of the environment")
        except InvalidArgumentError as error:
            context.report("relocate", f"left out: {error}")
            continue
        kept[name] = re.sub(rf"(?:{paths})(?![\w.-])", PREFIX_TOKEN, value)
    return {**kept, **variables}


def _declared(prefix: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in (each for each in input_files(prefix) if each.suffix != ".sh"):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            found |= data.get("env_vars", {}) if path == prefix / _STATE else data
        except (ValueError, AttributeError, TypeError) as error:
            raise BuildError(f"Could not read the variables in {path}: {error}. Correct the file.") from None
    return {name: str(value) for name, value in found.items() if value != _UNSET}


def _run(script: Path, environ: Mapping[str, str], prefix: Path, context: BuildContext) -> dict[str, str]:
    bash = shutil.which("bash", path="/usr/local/bin:/usr/bin:/bin")
    shell = [bash, "--noprofile", "--norc"] if bash else ["/bin/sh"]
    done = run([*shell, "-c", _COMMAND, script], deadline=context.deadline, cwd=prefix, environ=environ)
    output, ended, variables = done.stdout.partition(_SEPARATOR)
    # A script may end with a test that is false, which is no error and writes none.
    if not ended or (done.code and done.stderr):
        output = shorten_output(f"{output}\n{done.stderr}") or f"exit code {done.code}"
        raise BuildError(
            f"The activation script {script.relative_to(prefix)} failed:\n\n{output}\n\nCorrect or remove the package"
            " that contains it."
        )
    pairs = (entry.partition("=") for entry in variables.split("\0"))
    return {name: value for name, _, value in pairs if re.fullmatch(r"[A-Za-z_]\w*", name)}

"""Variables that conda's activation would set."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.environments import CondaEnvironment
from airflow_provider_sparkdeps.environments.conda.activation import env_vars
from airflow_provider_sparkdeps.exceptions import BuildError

from ...support.build_contexts import make_context
from ...support.conda_builds import Builder
from ...support.conda_channel import MINOR

PREFIX = "@sparkdeps-prefix@"
GLOBE = {
    "GLOBE_DATA": f"{PREFIX}/share/globe:/usr/share/globe",
    "GLOBE_HOME": f"{PREFIX}/share/globe",
    "GLOBE_SCALE": "1:50",
    "GLOBE_SEEN": "1:50",
    "GLOBE_UNIT": "km",
    "GLOBE_USER": "nobody",
}


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., Path]:
    """Writes activation scripts into a prefix; returns the prefix."""

    def write(text: str, name: str = "x.sh") -> Path:
        path = tmp_path / "prefix/etc/conda/activate.d" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return tmp_path / "prefix"

    return write


def test_variables_of_packages_are_returned_with_a_token_for_the_prefix(build: Builder) -> None:
    lines: list[str] = []
    _, built = build("globe", lines=lines)
    assert built.env_vars == GLOBE
    left_out = "".join(line for line in lines if line.startswith("relocate: left out: "))
    assert "the activation of the environment sets PYTHONPATH, which can't be set for Python workers" in left_out
    assert "The variable GLOBE_TOKEN of the activation of the environment looks like a credential" in left_out
    assert "hunter2" not in "".join(lines)


def test_a_package_without_activation_has_no_variables(build: Builder) -> None:
    assert build("cheese")[1].env_vars == {}


def test_variables_of_an_existing_environment_count(build: Builder, channel: str, tmp_path: Path) -> None:
    import rattler

    prefix = tmp_path / "envs" / "maps"

    async def install() -> None:
        specs = ["globe", f"python {MINOR}.*"]
        await rattler.install(await rattler.solve([channel], specs), prefix, show_progress=False)

    asyncio.run(install())
    environment = CondaEnvironment.from_prefix(prefix)
    keys = [environment.key]
    state = {"GLOBE_UNIT": "mi", "MINE": f"{prefix}/mine", "OLD": "***unset***", "LEVEL": 3, "SIBLING": f"{prefix}-2/x"}
    (prefix / "conda-meta/state").write_text(json.dumps({"env_vars": state}))
    keys.append(environment.key)
    (prefix / "etc/conda/activate.d/mine.sh").write_text("export SCRIPT=mine")
    keys.append(environment.key)
    assert len(set(keys)) == 3
    mine = {"GLOBE_UNIT": "mi", "MINE": f"{PREFIX}/mine", "LEVEL": "3", "SIBLING": f"{prefix}-2/x", "SCRIPT": "mine"}
    assert build(environment=environment)[1].env_vars == {**GLOBE, **mine}


def test_scripts_run_in_order_and_see_no_variables_of_the_worker(
    script: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FROM_WORKER", "1")
    script('export B="$A:2" SEEN="$FROM_WORKER" AT="$HOME" LINES2="a\nb"', "b.sh")
    script("export A=1; helper() { :; }; export -f helper; echo noise", "a.sh")
    prefix = script("set A=3", "c.fish")
    expected = {"A": "1", "B": "1:2", "SEEN": "", "AT": "/nonexistent", "LINES2": "a\nb"}
    assert env_vars(prefix, {}, make_context()) == expected


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("echo broken >&2; exit 3", "broken"),
        ("exit 3", "exit code 3"),
        ("if then", "syntax error"),
        ("no-such-program", "no-such-program"),
        ("export A=1; return 1 2>/dev/null; ", None),
        ("[ -e /nowhere ] && export A=1", None),
    ],
)
def test_a_script_that_fails_is_named_with_its_output(
    script: Callable[..., Path], text: str, output: str | None
) -> None:
    prefix = script(text)
    if output is None:
        env_vars(prefix, {}, make_context())
        return
    with pytest.raises(BuildError, match=rf"(?s)The activation script etc/conda/activate\.d/x\.sh failed:.*{output}"):
        env_vars(prefix, {}, make_context())


def test_a_script_that_does_not_end_is_stopped_at_the_deadline(script: Callable[..., Path]) -> None:
    with pytest.raises(BuildError, match=r"timeout of 1 s.* It was running `bash"):
        env_vars(script("while true; do sleep 1; done"), {}, make_context(timeout=1))


def test_a_file_of_variables_that_is_not_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "etc/conda/env_vars.d").mkdir(parents=True)
    (tmp_path / "etc/conda/env_vars.d/x.json").write_text("A=1")
    with pytest.raises(BuildError, match=r"Could not read the variables in .*env_vars\.d/x\.json"):
        env_vars(tmp_path, {}, make_context())

"""Tools run until they exit, or are stopped with all processes that they started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.exceptions import BuildError
from airflow_provider_sparkdeps.utils.deadline import Deadline
from airflow_provider_sparkdeps.utils.processes import run
from airflow_provider_sparkdeps.utils.text import shorten_output

from ..support.waiting import wait_until, when_exists

# Starts a child process, and writes its PID to a file.
CHILD = "sleep 60 & echo $! > new; mv new child; "


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_exit_code_the_output_and_the_lines_are_returned() -> None:
    lines: list[str] = []
    done = run(["sh", "-c", "echo one; echo two >&2; exit 3"], deadline=Deadline(9, "A test"), on_line=lines.append)
    assert (done.code, done.stdout, done.stderr, lines) == (3, "one\n", "two\n", ["two"])


def test_settings_of_this_python_are_not_passed_to_a_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("VIRTUAL_ENV", "/nowhere")
    monkeypatch.setenv("UV_INDEX_URL", "kept")
    done = run(["sh", "-c", "echo $PYTHONPATH $VIRTUAL_ENV $UV_INDEX_URL"], deadline=Deadline(9, "A test"))
    assert done.stdout == "kept\n"


def test_at_the_deadline_the_tool_and_its_children_are_killed(tmp_path: Path) -> None:
    deadline = Deadline(50, "A test")
    message = r"A test was stopped after its timeout of 50 s\. It was running `sh -c"
    with when_exists(tmp_path / "child", deadline.pass_now), pytest.raises(BuildError, match=message):
        run(["sh", "-c", f"{CHILD} sleep 60"], deadline=deadline, cwd=tmp_path)
    child = int((tmp_path / "child").read_text())
    wait_until(lambda: not is_running(child))


def test_a_child_that_outlives_its_tool_is_not_waited_for(tmp_path: Path) -> None:
    assert run(["sh", "-c", f"{CHILD} exit 0"], deadline=Deadline(50, "A test"), cwd=tmp_path).code == 0
    child = int((tmp_path / "child").read_text())
    assert is_running(child)
    os.kill(child, signal.SIGKILL)


def test_an_interrupt_kills_the_tool_and_its_children(tmp_path: Path) -> None:
    code = (
        "import signal\n"
        "from airflow_provider_sparkdeps.utils.deadline import Deadline\n"
        "from airflow_provider_sparkdeps.utils.processes import run\n"
        # Shells let their background processes ignore it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"run(['sh', '-c', {f'{CHILD} sleep 60'!r}], deadline=Deadline(50, 'A test'))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stderr=subprocess.DEVNULL)
    wait_until((tmp_path / "child").exists)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) != 0
    child = int((tmp_path / "child").read_text())
    wait_until(lambda: not is_running(child))


def test_long_output_is_shortened_in_the_middle() -> None:
    screen = shorten_output("\n".join(f"line {number}" for number in range(1000)))
    assert screen.startswith("line 0\n")
    assert screen.endswith("line 999")
    assert "(960 more lines)" in screen

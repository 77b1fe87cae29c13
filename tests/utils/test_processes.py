"""Tools are run to their end, or stopped with all that they started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.exceptions import BuildError
from airflow_provider_sparkdeps.utils.deadline import Deadline
from airflow_provider_sparkdeps.utils.processes import run
from airflow_provider_sparkdeps.utils.text import shorten_output


def gone(pid: int) -> bool:
    for _ in range(50):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_a_tools_answer_and_its_lines_are_given_back() -> None:
    lines: list[str] = []
    done = run(["sh", "-c", "echo one; echo two >&2; exit 3"], deadline=Deadline(9, "A test"), on_line=lines.append)
    assert (done.code, done.stdout, done.stderr, lines) == (3, "one\n", "two\n", ["two"])


def test_what_shapes_our_own_python_does_not_reach_a_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("VIRTUAL_ENV", "/nowhere")
    monkeypatch.setenv("UV_INDEX_URL", "kept")
    done = run(["sh", "-c", "echo $PYTHONPATH $VIRTUAL_ENV $UV_INDEX_URL"], deadline=Deadline(9, "A test"))
    assert done.stdout == "kept\n"


def test_at_the_deadline_the_tool_and_its_children_are_killed(tmp_path: Path) -> None:
    script = f"sleep 60 & echo $! > {tmp_path}/child; sleep 60"
    start = time.monotonic()
    with pytest.raises(BuildError, match=r"A test was stopped after its timeout of 0\.5 s\. It was running `sh -c"):
        run(["sh", "-c", script], deadline=Deadline(0.5, "A test"))
    assert time.monotonic() - start < 2
    assert gone(int((tmp_path / "child").read_text()))


def test_a_child_that_outlives_its_tool_does_not_hold_us_up() -> None:
    start = time.monotonic()
    assert run(["sh", "-c", "sleep 5 & exit 0"], deadline=Deadline(9, "A test")).code == 0
    assert time.monotonic() - start < 2


def test_an_interrupt_kills_the_tool_and_its_children(tmp_path: Path) -> None:
    code = (
        "import signal\n"
        "from airflow_provider_sparkdeps.utils.deadline import Deadline\n"
        "from airflow_provider_sparkdeps.utils.processes import run\n"
        # Whoever is started in a shell's background ignores it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"run(['sh', '-c', 'sleep 60 & echo $! > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/child; sleep 60'],"
        " deadline=Deadline(50, 'A test'))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    while not (tmp_path / "child").exists():
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(5) != 0
    assert gone(int((tmp_path / "child").read_text()))


def test_long_output_keeps_its_beginning_and_end() -> None:
    screen = shorten_output("\n".join(f"line {number}" for number in range(1000)))
    assert screen.startswith("line 0\n")
    assert screen.endswith("line 999")
    assert "(960 more lines)" in screen

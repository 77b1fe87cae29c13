"""Work directories are removed after use, and after their process was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.utils.scratch import scratch_directory


def test_it_is_removed_after_use_and_after_an_error(tmp_path: Path) -> None:
    with scratch_directory("x-", parent=tmp_path) as scratch:
        (scratch / "file").touch()
    assert not list(tmp_path.iterdir())
    with pytest.raises(ZeroDivisionError), scratch_directory("x-", parent=tmp_path):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_directories_of_killed_processes_are_removed_and_those_of_running_ones_are_not(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from airflow_provider_sparkdeps.utils.scratch import scratch_directory\n"
        "with scratch_directory('x-', parent=Path(sys.argv[1])) as scratch: print(scratch, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        directory = Path(process.stdout.readline().strip())
        with scratch_directory("x-", parent=tmp_path):
            assert directory.exists()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with scratch_directory("x-", parent=tmp_path) as own:
        assert list(tmp_path.iterdir()) == [own]


def test_directories_without_a_lock_are_removed_when_they_are_old(tmp_path: Path) -> None:
    (tmp_path / "x-old").mkdir()
    (tmp_path / "x-new").mkdir()
    (tmp_path / "other").mkdir()
    os.utime(tmp_path / "x-old", (0, time.time() - 7200))
    with scratch_directory("x-", parent=tmp_path) as own:
        assert set(tmp_path.iterdir()) == {own, tmp_path / "x-new", tmp_path / "other"}

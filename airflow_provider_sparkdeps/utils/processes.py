"""Runs the tools of a build with a deadline, and ends their child processes with them."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from airflow_provider_sparkdeps.utils.deadline import Deadline
from airflow_provider_sparkdeps.utils.redaction import redact

# Settings for the Python of the worker would affect the Python of the tool, too.
_NOT_FOR_TOOLS = (
    "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "CONDA_PREFIX",
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE",
)  # fmt: skip


def tool_environ(**extra: str) -> dict[str, str]:
    """Return this process's environment variables without those that change how a Python starts."""
    kept = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_TOOLS}
    return {**kept, **extra}


@dataclass(frozen=True)
class CompletedTool:
    """Exit code and output of a tool."""

    code: int
    stdout: str
    stderr: str


def run(
    command: Sequence[str | Path],
    *,
    deadline: Deadline,
    cwd: Path | None = None,
    environ: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] | None = None,
    secrets: Sequence[str] = (),
) -> CompletedTool:
    """Run a tool in its own process group, and kill the group if the call ends before the tool.

    :param command: program and arguments.
    :param deadline: when it is killed.
    :param cwd: its working directory.
    :param environ: its environment variables; by default `tool_environ()`.
    :param on_line: called with each redacted line that it writes to stderr.
    :param secrets: values to redact, such as a password that was passed to the tool.
    :raises BuildError: if it is still running at the deadline.
    """
    with start(command, deadline=deadline, cwd=cwd, environ=environ, on_line=on_line, secrets=secrets) as finish:
        return finish()


@contextlib.contextmanager
def start(
    command: Sequence[str | Path],
    *,
    deadline: Deadline,
    cwd: Path | None = None,
    environ: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] | None = None,
    secrets: Sequence[str] = (),
) -> Iterator[Callable[[], CompletedTool]]:
    """Start a tool as `run` does, and yield a function that closes its stdin and waits until it exits.

    A tool that first reads its stdin can prepare its work meanwhile.
    """
    environ = tool_environ() if environ is None else environ
    with tempfile.TemporaryFile() as stdout:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=cwd,
            env=dict(environ),
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        stdin, errors = process.stdin, process.stderr
        assert stdin is not None  # noqa: S101 - set by PIPE; for mypy
        assert errors is not None  # noqa: S101
        doing = f"running `{redact(' '.join(Path(part).name for part in command[:3]))}`"

        def finish() -> CompletedTool:
            stdin.close()
            stderr = _follow(process, deadline, doing, on_line, secrets)
            while process.poll() is None:
                time.sleep(min(deadline.left(doing), 0.01))
            stdout.seek(0)
            return CompletedTool(process.returncode, stdout.read().decode(errors="replace"), stderr)

        try:
            yield finish
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            stdin.close()
            errors.close()


def _follow(
    process: subprocess.Popen[bytes],
    deadline: Deadline,
    doing: str,
    on_line: Callable[[str], None] | None,
    secrets: Sequence[str],
) -> str:
    assert process.stderr is not None  # noqa: S101 - set by PIPE; for mypy
    lines: list[str] = []
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stderr, selectors.EVENT_READ)
        while True:
            ready = selector.select(min(deadline.left(doing), 0.5))
            if not ready:
                # A child process that outlives the tool may keep the pipe open.
                if process.poll() is not None:
                    break
                continue
            chunk = os.read(process.stderr.fileno(), 65536)
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole if chunk else [rest]:
                text = redact(line.decode(errors="replace").rstrip(), secrets)
                lines.append(text)
                if text and on_line:
                    on_line(text)
            if not chunk:
                break
    return "\n".join(lines)

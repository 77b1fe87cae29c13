"""One run of a DAG: trigger it, follow it, and gather what it came to."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from airflow_provider_sparkdeps.exceptions import SparkDepsError
from airflow_provider_sparkdeps.local_airflow.rest_api import RestApi

DAG_KNOWN_WITHIN = 60.0
LOGS_COMPLETE_WITHIN = 5.0
POLL_EVERY = 0.15
TAIL_LINES = 30
# More rows than a local run has; the API gives 50 unasked.
ALL = "limit=10000"
OVER = ("success", "failed", "skipped", "upstream_failed", "removed")


class DagRunTimeoutError(SparkDepsError, TimeoutError):
    """A DAG run was not over in time; the message holds the states and the logs of its unfinished tasks."""


@dataclass(frozen=True)
class DagRunReport:
    """What a DAG run came to.

    :param dag_id: the DAG.
    :param run_id: Airflow's id of this run.
    :param state: ``success`` or ``failed``.
    :param seconds: wall time from triggering to the end.
    :param tasks: task id to its last state; mapped tasks as ``task[0]``.
    :param xcom: task id (as in `tasks`) to XCom key to plain value; tuples and sets come as lists.
    :param logs: task id (as in `tasks`) to the text of its log files, all tries, as Airflow wrote them:
        a JSON object per line.
    """

    dag_id: str
    run_id: str
    state: str
    seconds: float
    tasks: dict[str, str]
    xcom: dict[str, dict[str, Any]]
    logs: dict[str, str]


def await_dag(api: RestApi, dag_id: str, *, dags: Path) -> None:
    """Return once Airflow knows a DAG as its file is now.

    :raises SparkDepsError: with the import error's text, or if no file below `dags` defines the DAG.
    """
    deadline = time.monotonic() + DAG_KNOWN_WITHIN
    while True:
        api.check()
        known = {dag["dag_id"]: dag for dag in api.call("GET", f"/api/v2/dags?exclude_stale=false&{ALL}")["dags"]}
        errors = api.call("GET", f"/api/v2/importErrors?{ALL}")["import_errors"]
        dag = known.get(dag_id)
        for error in errors:
            file = dags / error["filename"]
            if _is_current(file, error["timestamp"]) and _would_define(file, dag_id, dag):
                raise SparkDepsError(f"{file} can't be imported:\n{error['stack_trace']}")
        if dag and not dag["is_stale"] and _is_current(Path(dag["fileloc"]), dag["last_parsed_time"]):
            return
        if time.monotonic() > deadline:
            others = "".join(f"\n{error['filename']}:\n{error['stack_trace']}" for error in errors)
            raise SparkDepsError(
                f"No file in {dags} defined the DAG {dag_id!r} within {DAG_KNOWN_WITHIN:.0f} s. "
                f"DAGs known: {', '.join(sorted(known)) or 'none'}.{others}"
            )
        time.sleep(POLL_EVERY)


def run_dag(
    api: RestApi,
    dag_id: str,
    *,
    logs: Path,
    conf: Mapping[str, Any],
    timeout: float,
    on_task: Callable[[str, str, float], None] | None,
) -> DagRunReport:
    """Unpause and trigger a DAG that Airflow knows, and follow the run to its end; see `LocalAirflow.run`."""
    now = datetime.now(UTC)
    run_id = f"local__{now:%Y%m%dT%H%M%S}_{secrets.token_hex(3)}"
    dag_path = f"/api/v2/dags/{quote(dag_id)}"
    path = f"{dag_path}/dagRuns/{run_id}"
    logs = logs / f"dag_id={dag_id}" / f"run_id={run_id}"
    api.call("PATCH", dag_path, {"is_paused": False})
    started = time.monotonic()
    # Without a logical date `{{ ds }}` and its kin are undefined.
    body = {"dag_run_id": run_id, "logical_date": now.isoformat(), "conf": dict(conf)}
    api.call("POST", f"{dag_path}/dagRuns", body)
    states: dict[str, str] = {}
    while True:
        state = api.call("GET", path)["state"]  # asked before the tasks, whose states are final once this one is
        instances = api.call("GET", f"{path}/taskInstances?{ALL}")["task_instances"]
        seconds = time.monotonic() - started
        before, states = states, {_label(instance): instance["state"] or "none" for instance in instances}
        for task, task_state in states.items():
            if on_task and before.get(task) != task_state:
                on_task(task, task_state, seconds)
        if state in ("success", "failed"):
            return DagRunReport(dag_id, run_id, state, seconds, states, _xcom(api, path), _logs(logs, states))
        if seconds > timeout:
            # Its tasks would keep workers from the runs that follow.
            api.call("PATCH", path, {"state": "failed"})
            tails = (
                f"\n--- log of {task} ends with:\n{last_lines(_log(logs, task))}"
                for task, task_state in states.items()
                if task_state not in OVER
            )
            raise DagRunTimeoutError(
                f"DAG {dag_id!r} was not over after {timeout:g} s; states of its tasks: {states}{''.join(tails)}"
            )
        api.check()
        time.sleep(POLL_EVERY)


def last_lines(text: str) -> str:
    """Return as much of a log's end as fits into an error."""
    return "\n".join(text.splitlines()[-TAIL_LINES:])


def _is_current(file: Path, parsed: str) -> bool:
    return file.exists() and datetime.fromisoformat(parsed).timestamp() >= file.stat().st_mtime


def _would_define(file: Path, dag_id: str, dag: Mapping[str, Any] | None) -> bool:
    """Guess from the text for a file that never could be imported: nothing else ties a DAG to it."""
    return file == Path(dag["fileloc"]) if dag else dag_id in file.read_text(errors="replace")


def _label(instance: Mapping[str, Any]) -> str:
    index = instance["map_index"]
    return str(instance["task_id"]) if index < 0 else f"{instance['task_id']}[{index}]"


def _xcom(api: RestApi, run: str) -> dict[str, dict[str, Any]]:
    values: dict[str, dict[str, Any]] = {}
    for entry in api.call("GET", f"{run}/taskInstances/~/xcomEntries?{ALL}")["xcom_entries"]:
        entries = f"{run}/taskInstances/{quote(entry['task_id'])}/xcomEntries"
        found = api.call("GET", f"{entries}/{quote(entry['key'])}?map_index={entry['map_index']}")
        values.setdefault(_label(entry), {})[entry["key"]] = _plain(found["value"])
    return values


def _plain(value: Any) -> Any:
    """Undo Airflow's wrapping of what JSON lacks."""
    if isinstance(value, dict):
        wrapped = "__classname__" in value and "__data__" in value
        return _plain(value["__data__"]) if wrapped else {key: _plain(it) for key, it in value.items()}
    return [_plain(it) for it in value] if isinstance(value, list) else value


def _logs(run: Path, tasks: Iterable[str]) -> dict[str, str]:
    """Read the logs once they stop growing: a task's last lines are written after its state."""
    deadline = time.monotonic() + LOGS_COMPLETE_WITHIN
    logs: dict[str, str] = {}
    while True:
        before, logs = logs, {task: _log(run, task) for task in tasks}
        if logs == before or time.monotonic() > deadline:
            return logs
        time.sleep(2 * POLL_EVERY)


def _log(run: Path, task: str) -> str:
    task_id, _, index = task.rstrip("]").partition("[")
    directory = run / f"task_id={task_id}" / (f"map_index={index}" if index else "")
    # Beside `attempt=1.log` may lie `attempt=1.log.trigger.1.log`: what a trigger wrote.
    return "".join(file.read_text(errors="replace") for file in sorted(directory.glob("attempt=*")))

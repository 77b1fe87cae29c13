"""Triggers a DAG run, follows it, and collects its results."""

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

DAG_TIMEOUT = 120.0
LOGS_TIMEOUT = 5.0
POLL_INTERVAL = 0.15
TAIL_LINES = 30
# More rows than a local run has. The API's default is 50.
NO_LIMIT = "limit=10000"
FINAL_STATES = ("success", "failed", "skipped", "upstream_failed", "removed")


class DagRunTimeoutError(SparkDepsError, TimeoutError):
    """A DAG run did not end in time. The message has the states of its tasks and the logs of unfinished ones."""


@dataclass(frozen=True)
class DagRunReport:
    """The results of a DAG run.

    :param dag_id: id of the DAG.
    :param run_id: id of the run.
    :param state: ``success`` or ``failed``.
    :param seconds: time between the trigger and the end of the run.
    :param tasks: the final state of each task, by task id. Mapped tasks are named ``task[0]``.
    :param xcom: XCom values by task id (as in `tasks`) and key. Tuples and sets are lists.
    :param logs: the logs of all tries of each task, by task id (as in `tasks`): one JSON object per line.
    """

    dag_id: str
    run_id: str
    state: str
    seconds: float
    tasks: dict[str, str]
    xcom: dict[str, dict[str, Any]]
    logs: dict[str, str]


def wait_for_dag(api: RestApi, dag_id: str, *, dags: Path) -> None:
    """Return when Airflow has parsed the current content of a DAG's file.

    :raises SparkDepsError: if the file can't be imported, or if no file below `dags` defines the DAG.
    """
    deadline = time.monotonic() + DAG_TIMEOUT
    while True:
        api.check()
        known = {dag["dag_id"]: dag for dag in api.call("GET", f"/api/v2/dags?exclude_stale=false&{NO_LIMIT}")["dags"]}
        errors = api.call("GET", f"/api/v2/importErrors?{NO_LIMIT}")["import_errors"]
        dag = known.get(dag_id)
        for error in errors:
            file = dags / error["filename"]
            if _is_current(file, error["timestamp"]) and _would_define(file, dag_id, dag):
                raise SparkDepsError(f"Could not import {file}. Fix this error:\n{error['stack_trace']}")
        if dag and not dag["is_stale"] and _is_current(Path(dag["fileloc"]), dag["last_parsed_time"]):
            return
        if time.monotonic() > deadline:
            others = "".join(f"\n{error['filename']}:\n{error['stack_trace']}" for error in errors)
            raise SparkDepsError(
                f"Could not find the DAG {dag_id!r}: no file in {dags} defined it within {DAG_TIMEOUT:.0f} s. "
                f"Known DAGs: {', '.join(sorted(known)) or 'none'}.{others}"
            )
        time.sleep(POLL_INTERVAL)


def run_dag(
    api: RestApi,
    dag_id: str,
    *,
    logs: Path,
    conf: Mapping[str, Any],
    timeout: float,
    on_task: Callable[[str, str, float], None] | None,
) -> DagRunReport:
    """Unpause and trigger a DAG, and wait for the end of the run. See `LocalAirflow.run`."""
    now = datetime.now(UTC)
    run_id = f"local__{now:%Y%m%dT%H%M%S}_{secrets.token_hex(3)}"
    dag_path = f"/api/v2/dags/{quote(dag_id)}"
    path = f"{dag_path}/dagRuns/{run_id}"
    logs = logs / f"dag_id={dag_id}" / f"run_id={run_id}"
    api.call("PATCH", dag_path, {"is_paused": False})
    started = time.monotonic()
    # Without a logical date, `{{ ds }}` is undefined.
    body = {"dag_run_id": run_id, "logical_date": now.isoformat(), "conf": dict(conf)}
    api.call("POST", f"{dag_path}/dagRuns", body)
    states: dict[str, str] = {}
    while True:
        state = api.call("GET", path)["state"]  # queried first: states of tasks are final when this one is
        instances = api.call("GET", f"{path}/taskInstances?{NO_LIMIT}")["task_instances"]
        seconds = time.monotonic() - started
        previous, states = states, {_label(instance): instance["state"] or "none" for instance in instances}
        for task, task_state in states.items():
            if on_task and previous.get(task) != task_state:
                on_task(task, task_state, seconds)
        if state in ("success", "failed"):
            return DagRunReport(dag_id, run_id, state, seconds, states, _xcom(api, path), _logs(logs, states))
        if seconds > timeout:
            # Otherwise its tasks would occupy workers that later runs need.
            api.call("PATCH", path, {"state": "failed"})
            tails = (
                f"\n--- The log of {task} ends with:\n{last_lines(_log(logs, task))}"
                for task, task_state in states.items()
                if task_state not in FINAL_STATES
            )
            raise DagRunTimeoutError(
                f"The run of the DAG {dag_id!r} did not end within {timeout:g} s: its tasks are {states}. "
                f"Set a longer timeout, or see the logs.{''.join(tails)}"
            )
        api.check()
        time.sleep(POLL_INTERVAL)


def last_lines(text: str) -> str:
    """Return the end of a log, short enough for an error message."""
    return "\n".join(text.splitlines()[-TAIL_LINES:])


def _is_current(file: Path, parsed: str) -> bool:
    return file.exists() and datetime.fromisoformat(parsed).timestamp() >= file.stat().st_mtime


def _would_define(file: Path, dag_id: str, dag: Mapping[str, Any] | None) -> bool:
    """Search the source of a file that was never imported. Airflow does not know its DAGs."""
    return file == Path(dag["fileloc"]) if dag else dag_id in file.read_text(errors="replace")


def _label(instance: Mapping[str, Any]) -> str:
    index = instance["map_index"]
    return str(instance["task_id"]) if index < 0 else f"{instance['task_id']}[{index}]"


def _xcom(api: RestApi, run: str) -> dict[str, dict[str, Any]]:
    values: dict[str, dict[str, Any]] = {}
    for entry in api.call("GET", f"{run}/taskInstances/~/xcomEntries?{NO_LIMIT}")["xcom_entries"]:
        entries = f"{run}/taskInstances/{quote(entry['task_id'])}/xcomEntries"
        found = api.call("GET", f"{entries}/{quote(entry['key'])}?map_index={entry['map_index']}")
        values.setdefault(_label(entry), {})[entry["key"]] = _unwrap(found["value"])
    return values


def _unwrap(value: Any) -> Any:
    """Replace Airflow's JSON representation of other types by their data."""
    if isinstance(value, dict):
        wrapped = "__classname__" in value and "__data__" in value
        return _unwrap(value["__data__"]) if wrapped else {key: _unwrap(item) for key, item in value.items()}
    return [_unwrap(item) for item in value] if isinstance(value, list) else value


def _logs(run: Path, tasks: Iterable[str]) -> dict[str, str]:
    """Read the logs when they have stopped growing: a task's last lines are written after its final state."""
    deadline = time.monotonic() + LOGS_TIMEOUT
    logs: dict[str, str] = {}
    while True:
        previous, logs = logs, {task: _log(run, task) for task in tasks}
        if logs == previous or time.monotonic() > deadline:
            return logs
        time.sleep(2 * POLL_INTERVAL)


def _log(run: Path, task: str) -> str:
    task_id, _, index = task.rstrip("]").partition("[")
    directory = run / f"task_id={task_id}" / (f"map_index={index}" if index else "")
    # Triggers write to files named like `attempt=1.log.trigger.1.log`.
    return "".join(file.read_text(errors="replace") for file in sorted(directory.glob("attempt=*")))

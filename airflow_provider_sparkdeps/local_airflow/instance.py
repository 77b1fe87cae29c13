"""Starts and stops the processes of a local Airflow."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import secrets
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from airflow_provider_sparkdeps.exceptions import SparkDepsError
from airflow_provider_sparkdeps.local_airflow import services
from airflow_provider_sparkdeps.local_airflow.dag_runs import DagRunReport, last_lines, run_dag, wait_for_dag
from airflow_provider_sparkdeps.local_airflow.rest_api import RestApi

READY_TIMEOUT = 300.0
POLL_INTERVAL = 0.15


class LocalAirflow:
    """An API server, scheduler with LocalExecutor, DAG processor and triggerer, with SQLite, on the loopback address.

    .. code-block:: python

        with LocalAirflow(Path("airflow-home"), dags=Path("dags")) as airflow:
            report = airflow.run("my_dag")

    The database is empty at each start. A second start in the same `home` is faster, because an empty database of
    this Airflow version is kept there. Logs are kept as well. Variables ``AIRFLOW_*`` in the environment of this
    process are not passed on. While Airflow runs, `url` is the URL of the UI and the REST API (user ``admin``, password
    in ``passwords.json``), and `pids` has the process id of each service.

    :param home: directory for all files that Airflow writes, created if missing. One LocalAirflow can use it at a time.
    :param dags: directory of the DAG files.
    :param connections: fields of connections (``conn_type``, ``host``, ``extra``, ...), by connection id.
    :param environ: additional environment variables for Airflow and its tasks. They override the defaults.
    :raises SparkDepsError: on entering, if Airflow does not start, or `home` is in use.
    """

    def __init__(
        self,
        home: Path,
        *,
        dags: Path,
        connections: Mapping[str, Mapping[str, Any]] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.home = home.absolute()
        self.dags = dags.absolute()
        self.url = ""
        self.pids: dict[str, int] = {}
        self._connections = dict(connections or {})
        self._environ = dict(environ or {})
        self._outputs = self.home / "logs-of-processes"
        self._running = contextlib.ExitStack()

    def __enter__(self) -> LocalAirflow:
        with contextlib.ExitStack() as started:
            self._outputs.mkdir(parents=True, exist_ok=True)
            started.enter_context(_lock_home(self.home))
            keys = _load_keys(self.home)
            self.url = f"http://127.0.0.1:{started.enter_context(_reserved_port())}"
            self.pids, self._instance = {}, secrets.token_hex()
            deadline = time.monotonic() + READY_TIMEOUT
            self.pids = self._read_pids(started.enter_context(self._run_services(keys)), deadline)
            self._api = started.enter_context(RestApi(self.url, self._check_alive))
            self._wait_until_ready(deadline)
            self._api.log_in("admin", keys["admin"])
            self._running = started.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def run(
        self,
        dag_id: str,
        *,
        conf: Mapping[str, Any] | None = None,
        timeout: float = 300,
        on_task: Callable[[str, str, float], None] | None = None,
    ) -> DagRunReport:
        """Trigger a DAG, wait for the end of the run, and return its results, whether it succeeded or failed.

        The current content of the DAG's file is parsed first. The DAG remains unpaused, so that one with a schedule
        may also get scheduled runs.

        :param conf: the run's ``conf``.
        :param timeout: maximum seconds for the run. A run that takes longer is marked as failed.
        :param on_task: called with the task id, its state, and the seconds since the trigger, when a state changes.
        :raises DagRunTimeoutError: if the run takes longer than `timeout`.
        :raises SparkDepsError: if the DAG's file can't be imported, no file defines the DAG, or Airflow has ended.
        """
        wait_for_dag(self._api, dag_id, dags=self.dags)
        logs = self.home / "logs"
        return run_dag(self._api, dag_id, logs=logs, conf=conf or {}, timeout=timeout, on_task=on_task)

    @contextlib.contextmanager
    def _run_services(self, keys: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
        # -P: modules must not be imported from the working directory.
        code = f"import sys, {services.__name__} as services; services.main(sys.argv[1])"
        command = [sys.executable, "-P", "-c", code, str(self._outputs)]
        with (
            (self._outputs / "parent.log").open("wb") as log,
            subprocess.Popen(
                command,
                cwd=self.home,
                env=self._child_environ(keys),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            ) as process,
        ):
            try:
                yield process
            finally:
                services.stop_processes([process.pid, *self.pids.values()], self._instance)

    def _read_pids(self, process: subprocess.Popen[bytes], deadline: float) -> dict[str, int]:
        assert process.stdout  # noqa: S101 - for mypy
        ready = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]
        if not (line := process.stdout.readline() if ready else b""):
            problem = "did not start" if ready else f"did not start within {READY_TIMEOUT:.0f} s"
            raise SparkDepsError(f"Airflow's services {problem}. Fix the error in their log.{self._tail('parent')}")
        pids: dict[str, int] = json.loads(line)
        return pids

    def _child_environ(self, keys: Mapping[str, str]) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
        simple_auth = "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"
        settings = {
            "API__BASE_URL": self.url,
            "API__HOST": "127.0.0.1",
            "API__MAXIMUM_PAGE_LIMIT": 10_000,
            "API__PORT": self.url.rpartition(":")[2],
            "API__SECRET_KEY": keys["api"],
            "API__WORKERS": 1,
            "API_AUTH__JWT_SECRET": keys["jwt"],
            "CORE__AUTH_MANAGER": simple_auth,
            "CORE__DAGS_FOLDER": self.dags,
            "CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "CORE__EXECUTOR": "LocalExecutor",
            "CORE__FERNET_KEY": keys["fernet"],
            "CORE__LOAD_EXAMPLES": False,
            "CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": 0,
            "CORE__PARALLELISM": 8,
            "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": self.home / "passwords.json",
            "CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
            "DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": 1,
            # New and changed files are still parsed within a second.
            "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": 3600,
            "DAG_PROCESSOR__REFRESH_INTERVAL": 1,
            "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.home / 'airflow.db'}",
            "LOGGING__BASE_LOG_FOLDER": self.home / "logs",
            "LOGGING__COLORED_CONSOLE_LOG": False,
            "LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY": self.home / "logs" / "dag_processor",
            "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": 0.2,
            "USAGE_DATA_COLLECTION__ENABLED": False,
            # A worker may notice the end of its task only at its next heartbeat.
            "WORKERS__MIN_HEARTBEAT_INTERVAL": 1,
        }
        # HTTP clients of tasks must not use a proxy to reach the API server.
        direct = ",".join(filter(None, (inherited.get("NO_PROXY") or inherited.get("no_proxy"), "127.0.0.1")))
        return {
            **inherited,
            "AIRFLOW_HOME": str(self.home),
            **{f"AIRFLOW__{name}": str(value) for name, value in settings.items()},
            **{f"AIRFLOW_CONN_{name.upper()}": json.dumps(fields) for name, fields in self._connections.items()},
            services.INSTANCE_VARIABLE: self._instance,
            "NO_PROXY": direct,
            "no_proxy": direct,
            "PYTHONUNBUFFERED": "1",
            **self._environ,
        }

    def _wait_until_ready(self, deadline: float) -> None:
        waiting = list(services.SERVICES)
        while waiting:
            if time.monotonic() > deadline:
                tails = "".join(self._tail(service) for service in waiting)
                raise SparkDepsError(
                    f"Airflow was not ready within {READY_TIMEOUT:.0f} s: {', '.join(waiting)} did not start. "
                    f"Fix the errors in the logs.{tails}"
                )
            self._check_alive()
            time.sleep(POLL_INTERVAL)
            with contextlib.suppress(SparkDepsError):
                # The first request to the part of the API that tasks use takes some seconds.
                self._api.call("GET", "/execution/health")
                health = {"api_server": {"status": "healthy"}, **self._api.call("GET", "/api/v2/monitor/health")}
                waiting = [s for s in waiting if health[s.replace("-", "_")]["status"] != "healthy"]

    def _check_alive(self) -> None:
        for service, pid in self.pids.items():
            if not services.is_running(pid):
                raise SparkDepsError(f"Airflow's {service} has ended. Fix the error in its log.{self._tail(service)}")

    def _tail(self, service: str) -> str:
        file = self._outputs / f"{service}.log"
        text = file.read_text(errors="replace") if file.exists() else ""
        return f"\n--- {file} ends with:\n{last_lines(text)}"


@contextlib.contextmanager
def _lock_home(home: Path) -> Iterator[None]:
    with (home / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SparkDepsError(
                f"Another Airflow runs in {home}. Stop it, or choose another home directory."
            ) from error
        yield


def _load_keys(home: Path) -> dict[str, str]:
    """Return the secret keys of a home directory, created at the first start."""
    file = home / "keys.json"
    if not file.exists():
        sizes = {"fernet": 32, "jwt": 64, "api": 32, "admin": 32}
        keys = {name: base64.urlsafe_b64encode(os.urandom(size)).decode() for name, size in sizes.items()}
        for path, content in ((home / "passwords.json", {"admin": keys["admin"]}), (file, keys)):
            path.touch(0o600)
            path.write_text(json.dumps(content) + "\n")
    loaded: dict[str, str] = json.loads(file.read_text())
    return loaded


@contextlib.contextmanager
def _reserved_port() -> Iterator[int]:
    """Yield a free port that no other process gets while the API server, which binds it some seconds later, starts."""
    with socket.socket() as reservation:
        # The server can bind the port, too, because this socket has the option and does not listen.
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.bind(("127.0.0.1", 0))
        yield reservation.getsockname()[1]

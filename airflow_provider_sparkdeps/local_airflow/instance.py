"""The processes of a local Airflow: their settings, start and end."""

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
from dataclasses import replace
from pathlib import Path
from typing import Any

from airflow_provider_sparkdeps.exceptions import SparkDepsError
from airflow_provider_sparkdeps.local_airflow import services
from airflow_provider_sparkdeps.local_airflow.dag_runs import DagRunReport, await_dag, last_lines, run_dag
from airflow_provider_sparkdeps.local_airflow.rest_api import RestApi

READY_WITHIN = 180.0
POLL_EVERY = 0.15


class LocalAirflow:
    """API server, scheduler with LocalExecutor, DAG processor and triggerer, on loopback and SQLite.

    >>> with LocalAirflow(Path("airflow-home"), dags=Path("dags")) as airflow:
    ...     report = airflow.run("hello")

    Each start begins with an empty database. A `home` used again starts faster, as the empty database of this
    Airflow version stays there; so do the logs. Settings of another Airflow (``AIRFLOW_*``) in this process's
    environment are not passed on. While it runs, `url` is where UI and REST API are (user ``admin``, password
    in ``passwords.json``), and `pids` holds the process id of each service.

    :param home: directory for all that Airflow writes; made if missing. One LocalAirflow at a time may use it.
    :param dags: directory of the DAG files.
    :param connections: connection id to its fields, as Airflow's JSON form has them (``conn_type``, ``host``,
        ``extra``, ...).
    :param environ: further environment variables for Airflow and its tasks; these win over ours.
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
            started.enter_context(_one_user_of(self.home))
            keys = _keys_in(self.home)
            self.url, self.pids, self._mark = f"http://127.0.0.1:{_free_port()}", {}, secrets.token_hex()
            deadline = time.monotonic() + READY_WITHIN
            self.pids = self._services_of(started.enter_context(self._host(keys)), deadline)
            self._api = self._ready_api(keys["admin"], deadline)
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
        """Trigger a DAG, wait for the end of the run, and return what it came to, failed or not.

        Waits until the DAG's file is parsed as it is now, and leaves the DAG unpaused: one with a schedule may
        get scheduled runs, too.

        :param conf: the run's ``conf``.
        :param timeout: seconds for the run, from triggering; a run that takes longer is marked as failed.
        :param on_task: called with (task id, state, seconds since triggering) at each change of a state.
        :raises DagRunTimeoutError: if the run takes longer.
        :raises SparkDepsError: if the DAG's file can't be imported, no file defines the DAG, or Airflow died.
        """
        await_dag(self._api, dag_id, dags=self.dags)
        logs = self.home / "logs"
        return run_dag(self._api, dag_id, logs=logs, conf=conf or {}, timeout=timeout, on_task=on_task)

    @contextlib.contextmanager
    def _host(self, keys: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
        # -P: what lies in the working directory must not pass for a module.
        code = f"import sys, {services.__name__} as services; services.main(sys.argv[1])"
        command = [sys.executable, "-P", "-c", code, str(self._outputs)]
        with (
            (self._outputs / "host.log").open("wb") as log,
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
                services.stop([process.pid, *self.pids.values()], self._mark)

    def _services_of(self, process: subprocess.Popen[bytes], deadline: float) -> dict[str, int]:
        assert process.stdout  # noqa: S101 - says to mypy what PIPE means
        ready = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]
        if not (line := process.stdout.readline() if ready else b""):
            fault = "Airflow's services did not start" if ready else "Importing Airflow took too long"
            raise SparkDepsError(f"{fault}.{self._tail('host')}")
        services: dict[str, int] = json.loads(line)
        return services

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
            # New and changed files are parsed within a second all the same.
            "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": 3600,
            "DAG_PROCESSOR__REFRESH_INTERVAL": 1,
            "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.home / 'airflow.db'}",
            "LOGGING__BASE_LOG_FOLDER": self.home / "logs",
            "LOGGING__COLORED_CONSOLE_LOG": False,
            "LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY": self.home / "logs" / "dag_processor",
            "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": 0.2,
            "USAGE_DATA_COLLECTION__ENABLED": False,
            # A worker may notice the end of its task only then.
            "WORKERS__MIN_HEARTBEAT_INTERVAL": 1,
        }
        # Tasks reach the API server by HTTP clients that would ask a proxy.
        direct = ",".join(filter(None, (inherited.get("NO_PROXY") or inherited.get("no_proxy"), "127.0.0.1")))
        return {
            **inherited,
            "AIRFLOW_HOME": str(self.home),
            **{f"AIRFLOW__{name}": str(value) for name, value in settings.items()},
            **{f"AIRFLOW_CONN_{name.upper()}": json.dumps(it) for name, it in self._connections.items()},
            services.MARK: self._mark,
            "NO_PROXY": direct,
            "no_proxy": direct,
            "PYTHONUNBUFFERED": "1",
            **self._environ,
        }

    def _ready_api(self, password: str, deadline: float) -> RestApi:
        api = RestApi(self.url, "", self._check_alive)
        waiting = list(services.SERVICES)
        while waiting:
            if time.monotonic() > deadline:
                tails = "".join(self._tail(service) for service in waiting)
                raise SparkDepsError(f"Not ready within {READY_WITHIN:.0f} s: {', '.join(waiting)}.{tails}")
            self._check_alive()
            time.sleep(POLL_EVERY)
            with contextlib.suppress(OSError):
                # The part of the API that tasks use is built at its first request, which takes some seconds.
                api.request("GET", "/execution/health")
                health = {"api_server": {"status": "healthy"}, **api.request("GET", "/api/v2/monitor/health")}
                waiting = [s for s in waiting if health[s.replace("-", "_")]["status"] != "healthy"]
        credentials = {"username": "admin", "password": password}
        return replace(api, token=api.call("POST", "/auth/token", credentials)["access_token"])

    def _check_alive(self) -> None:
        for service, pid in self.pids.items():
            if not services.is_running(pid):
                raise SparkDepsError(f"Airflow's {service} has ended.{self._tail(service)}")

    def _tail(self, service: str) -> str:
        file = self._outputs / f"{service}.log"
        text = file.read_text(errors="replace") if file.exists() else ""
        return f"\n--- {file} ends with:\n{last_lines(text)}"


@contextlib.contextmanager
def _one_user_of(home: Path) -> Iterator[None]:
    with (home / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as taken:
            raise SparkDepsError(f"Another Airflow runs in {home}: end it, or choose another home") from taken
        yield


def _keys_in(home: Path) -> dict[str, str]:
    """Keys made once for a home: what was encrypted in one start can be read in the next."""
    file = home / "keys.json"
    if not file.exists():
        sizes = {"fernet": 32, "jwt": 64, "api": 32, "admin": 32}
        keys = {name: base64.urlsafe_b64encode(os.urandom(size)).decode() for name, size in sizes.items()}
        for path, content in ((home / "passwords.json", {"admin": keys["admin"]}), (file, keys)):
            path.touch(0o600)
            path.write_text(json.dumps(content) + "\n")
    kept: dict[str, str] = json.loads(file.read_text())
    return kept


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

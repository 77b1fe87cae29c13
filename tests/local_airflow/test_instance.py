"""A local Airflow with a real scheduler, executor, triggerer and API server, and what it does if something fails."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from airflow_provider_sparkdeps.exceptions import SparkDepsError
from airflow_provider_sparkdeps.local_airflow import DagRunTimeoutError, LocalAirflow
from airflow_provider_sparkdeps.local_airflow.instance import _reserved_port

from ..support.waiting import wait_until

# Other tests use a local Airflow, too. These take minutes.
pytestmark = pytest.mark.soak

DAGS = {
    "values": """
from datetime import datetime
from airflow.sdk import dag, task

@dag
def values():
    @task
    def give():
        return {"list": [1, 2.5, None], "text": "1", "tuple": (1, ("a",)), "yes": True}

    @task
    def take(value, day, conf, ti=None):
        print("took", value["text"], "on", day)
        ti.xcom_push(key="other", value=datetime(2026, 1, 2))
        return [day, conf]

    take(give(), "{{ ds }}", "{{ dag_run.conf['size'] }}")

values()
""",
    "fails": """
from datetime import timedelta
from airflow.sdk import dag, task

@dag
def fails():
    @task(retries=1, retry_delay=timedelta(seconds=0))
    def burn(ti=None):
        raise ValueError(f"smoke in try {ti.try_number}")

    @task
    def after():
        pass

    burn() >> after()

fails()
""",
    "mapped": """
from airflow.sdk import dag, task

@dag
def mapped():
    @task
    def double(n):
        print("doubling", n)
        return 2 * n

    @task
    def total(numbers):
        return sum(numbers)

    total(double.expand(n=[1, 2, 3]))

mapped()
""",
    "defers": """
from datetime import timedelta
from airflow.sdk import BaseOperator, dag
from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger

class Wait(BaseOperator):
    def execute(self, context):
        self.defer(trigger=TimeDeltaTrigger(timedelta(seconds=1)), method_name="resume")

    def resume(self, context, event=None):
        return f"resumed by {type(event).__name__}"

@dag
def defers():
    Wait(task_id="wait")

defers()
""",
    "sleeps": """
import subprocess, time
from airflow.sdk import dag, task

@dag
def sleeps():
    @task
    def nap():
        print("good night")
        sleeper = subprocess.Popen(["sleep", "300"], start_new_session=True)
        print("pid", sleeper.pid)
        time.sleep(300)

    nap()

sleeps()
""",
    "connected": """
import os
from airflow.sdk import BaseHook, dag, task

@dag
def connected():
    @task
    def read():
        found = BaseHook.get_connection("my_spark")
        return [found.conn_type, found.host, found.port, found.extra_dejson, os.environ["COLOR"]]

    read()

connected()
""",
    "broken": "from airflow.sdk import dag\nimport no_such_module\n\n@dag\ndef broken(): ...\n\nbroken()\n",
}
CONNECTION = {"conn_type": "spark_connect", "host": "spark.example", "port": 15002, "extra": {"use_ssl": True}}


@pytest.fixture(scope="module")
def dags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dags")
    for name, source in DAGS.items():
        (directory / f"{name}.py").write_text(source)
    return directory


@pytest.fixture(scope="module")
def local(dags: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAirflow]:
    home = tmp_path_factory.mktemp("local") / "airflow"
    os.environ["AIRFLOW__CORE__EXECUTOR"] = "NoSuchExecutor"  # set for another Airflow
    try:
        connections = {"my_spark": CONNECTION}
        with LocalAirflow(home, dags=dags, connections=connections, environ={"COLOR": "red"}) as running:
            yield running
    finally:
        del os.environ["AIRFLOW__CORE__EXECUTOR"]


def test_a_report_has_the_states_values_and_logs_of_all_tasks(local: LocalAirflow) -> None:
    changes: list[tuple[str, str]] = []
    report = local.run("values", conf={"size": "big"}, on_task=lambda task, state, _: changes.append((task, state)))
    assert report.state == "success"
    assert report.tasks == {"give": "success", "take": "success"}
    given = {"list": [1, 2.5, None], "text": "1", "tuple": [1, ["a"]], "yes": True}
    assert report.xcom["give"]["return_value"] == given
    assert report.xcom["take"]["return_value"] == [time.strftime("%Y-%m-%d", time.gmtime()), "big"]
    assert set(report.xcom["take"]) == {"return_value", "other"}
    assert "took 1 on 20" in report.logs["take"]
    assert changes.index(("give", "success")) < changes.index(("take", "success"))


def test_a_failed_run_is_returned_with_the_logs_of_all_tries(local: LocalAirflow) -> None:
    report = local.run("fails")
    assert report.state == "failed"
    assert report.tasks == {"burn": "failed", "after": "upstream_failed"}
    assert "smoke in try 1" in report.logs["burn"]
    assert "smoke in try 2" in report.logs["burn"]


def test_mapped_tasks_are_reported_separately(local: LocalAirflow) -> None:
    report = local.run("mapped")
    assert report.tasks == {f"double[{n}]": "success" for n in range(3)} | {"total": "success"}
    assert report.xcom["double[2]"] == {"return_value": 6}
    assert report.xcom["total"] == {"return_value": 12}
    assert "doubling" in report.logs["double[1]"]


def test_a_deferred_task_is_resumed_by_the_triggerer(local: LocalAirflow) -> None:
    states: list[str] = []
    report = local.run("defers", on_task=lambda _, state, __: states.append(state))
    assert report.state == "success"
    assert report.xcom["wait"]["return_value"].startswith("resumed by")
    assert "deferred" in states


def test_connections_and_environment_variables_reach_tasks(local: LocalAirflow) -> None:
    found = ["spark_connect", "spark.example", 15002, {"use_ssl": True}, "red"]
    assert local.run("connected").xcom["read"]["return_value"] == found


def test_a_file_that_cannot_be_imported_is_reported_with_its_error(local: LocalAirflow) -> None:
    with pytest.raises(SparkDepsError, match=r"Could not import \S+broken\.py\.(.|\n)*no_such_module"):
        local.run("broken")


def test_a_changed_file_is_parsed_before_it_runs(local: LocalAirflow, dags: Path) -> None:
    source = (
        'from airflow.sdk import dag, task\n\n@dag\ndef edited():\n    task(lambda: %d, task_id="t%d")()\n\nedited()\n'
    )
    for version in (1, 2):
        (dags / "edited.py").write_text(source.replace("%d", str(version)))
        report = local.run("edited")
        assert report.xcom == {f"t{version}": {"return_value": version}}
    (dags / "edited.py").write_text("import no_such_module\n" + source.replace("%d", "3"))
    with pytest.raises(SparkDepsError, match="no_such_module"):
        local.run("edited")


def test_a_run_that_takes_too_long_is_reported_with_its_logs(local: LocalAirflow) -> None:
    with pytest.raises(DagRunTimeoutError, match=r"'nap': 'running'(.|\n)*good night") as caught:
        local.run("sleeps", timeout=20)
    assert isinstance(caught.value, TimeoutError)
    assert local.run("values", conf={"size": "small"}).state == "success"


def test_a_home_is_used_by_one_airflow_at_a_time(local: LocalAirflow) -> None:
    with pytest.raises(SparkDepsError, match="Another Airflow runs in"), LocalAirflow(local.home, dags=local.dags):
        pass


def test_a_reserved_port_can_only_be_bound_by_the_server() -> None:
    with _reserved_port() as port:
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
        socket.create_server(("127.0.0.1", port)).close()


def test_a_failed_start_is_reported_with_its_error(dags: Path, tmp_path: Path) -> None:
    wrong = {"AIRFLOW__CORE__EXECUTOR": "NoSuchExecutor"}
    with (
        pytest.raises(SparkDepsError, match=r"(scheduler has ended|did not start)(.|\n)*NoSuchExecutor"),
        LocalAirflow(tmp_path, dags=dags, environ=wrong),
    ):
        pass
    assert _processes_in(tmp_path) == []


def test_no_process_is_left_after_a_failure(dags: Path, tmp_path: Path) -> None:
    def fail_within() -> None:
        with LocalAirflow(tmp_path, dags=dags) as running:
            with pytest.raises(DagRunTimeoutError, match="pid"):
                running.run("sleeps", timeout=20)
            os.kill(running.pids["scheduler"], signal.SIGKILL)
            assert _processes_in(tmp_path)
            running.run("values")

    with pytest.raises(SparkDepsError, match=r"Airflow's scheduler has ended\. .*\n--- .*scheduler\.log ends with:"):
        fail_within()
    assert _processes_in(tmp_path) == []

    # Likewise if the process that uses LocalAirflow is killed. The home is the same.
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from airflow_provider_sparkdeps.local_airflow import LocalAirflow\n"
        "with LocalAirflow(Path(sys.argv[1]), dags=Path(sys.argv[2])) as airflow:\n"
        "    print(airflow.run('values', conf={'size': 'big'}).state, flush=True)\n"
        "    time.sleep(300)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path, dags], stdout=subprocess.PIPE) as user:
        assert user.stdout
        assert user.stdout.readline() == b"success\n"
        user.kill()
    wait_until(lambda: not _processes_in(tmp_path))


def _processes_in(home: Path) -> list[int]:
    """Find processes by their working directory, because they can overwrite their titles and environments."""
    return [process.pid for process in psutil.process_iter(["cwd"]) if process.info["cwd"] == str(home)]

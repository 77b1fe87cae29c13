"""Sessions on a real server: opened or rejected, tagged, interrupted, and closed in bounded time."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from pyspark.errors import PySparkException
from pyspark.sql.functions import udf

from airflow_provider_sparkdeps.exceptions import ConnectError, InvalidArgumentError, SessionError
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer
from airflow_provider_sparkdeps.spark.endpoint import Endpoint
from airflow_provider_sparkdeps.spark.rpc import check_server
from airflow_provider_sparkdeps.spark.session import Session

from ...support.servers import OwnServer
from ...support.waiting import ends_within, wait_until, when_exists


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def test_sessions_are_separate(endpoint: Endpoint) -> None:
    with Session(endpoint) as one, Session(endpoint) as other:
        one.spark.range(3).createTempView("mine")
        assert one.spark.table("mine").count() == 3
        assert not other.spark.catalog.tableExists("mine")
        assert one.spark.session_id != other.spark.session_id


def test_a_session_starts_with_the_settings_of_its_endpoint(server: EmbeddedServer) -> None:
    endpoint = Endpoint(host=server.host, port=server.port, session_conf={"spark.sql.shuffle.partitions": "7"})
    with Session(endpoint) as session:
        assert session.spark.conf.get("spark.sql.shuffle.partitions") == "7"


def test_a_rejected_setting_is_reported_without_its_value(server: EmbeddedServer) -> None:
    endpoint = Endpoint(host=server.host, port=server.port, session_conf={"spark.sql.shuffle.partitions": "s3cret"})
    rejected = r"rejected the session setting spark\.sql\.shuffle\.partitions: \S+"
    with pytest.raises(SessionError, match=rejected) as caught, Session(endpoint):
        pass
    assert "s3cret" not in str(caught.value)


def test_the_pandas_api_uses_the_session_of_the_block(endpoint: Endpoint) -> None:
    import pyspark.pandas as ps
    from pyspark.sql.connect.session import SparkSession

    for _ in range(2):
        with Session(endpoint) as outer:
            with Session(endpoint) as inner:
                assert SparkSession.getActiveSession() is inner.spark
                ps.set_option("compute.fail_on_ansi_mode", False)
                assert len(ps.range(3)) == 3
            assert SparkSession.getActiveSession() is outer.spark
        assert SparkSession.getActiveSession() is None


def test_operations_of_all_threads_have_the_tag(endpoint: Endpoint) -> None:
    with Session(endpoint, tag="orders.score") as session:
        spark = session.spark

        @udf("string")
        def tags(_: int) -> Any:
            from pyspark import TaskContext

            context: Any = TaskContext.get()
            return context.getLocalProperty("spark.job.tags")

        found: list[str] = []
        thread = threading.Thread(
            target=lambda: found.extend(row[0] for row in spark.range(1).select(tags("id")).collect())
        )
        thread.start()
        thread.join()
    assert "orders.score" in found[0]


def test_an_interrupted_action_fails_soon(endpoint: Endpoint, tmp_path: Path) -> None:
    with Session(endpoint) as session:

        @udf("long")
        def slow(value: int) -> int:
            (tmp_path / "started").touch()
            time.sleep(300)
            return value

        with (
            ends_within(180),
            when_exists(tmp_path / "started", session.interrupt),
            pytest.raises(PySparkException),
        ):
            session.spark.range(2).select(slow("id")).collect()
        assert session.spark.range(2).count() == 2


def test_a_stream_ends_with_its_session(endpoint: Endpoint, tmp_path: Path) -> None:
    def start(session: Session) -> None:
        numbers = session.spark.readStream.format("rate").load()
        writer = numbers.writeStream.format("noop").option("checkpointLocation", str(tmp_path / "stream"))
        writer.trigger(processingTime="100 milliseconds").start()

    def starts(session: Session) -> bool:
        try:
            start(session)
        except PySparkException as error:
            if "is already active" not in str(error):
                raise
            return False
        return True

    with Session(endpoint) as first, Session(endpoint) as other:
        # Spark would stop the stream of the other session.
        other.spark.conf.set("spark.sql.streaming.stopActiveRunOnRestart", "false")
        start(first)
        assert not starts(other)
        first.close()
        wait_until(lambda: starts(other))


def test_progress_is_reported(endpoint: Endpoint) -> None:
    lines: list[str] = []
    with Session(endpoint, on_progress=lines.append) as session:

        @udf("long")
        def slow(value: int) -> int:
            time.sleep(3)  # longer than Spark takes to report progress for the first time
            return value

        session.spark.range(1).repartition(1).select(slow("id")).collect()
    assert any("has ended" in line and "stages" in line and "MB read" in line for line in lines)


@pytest.mark.parametrize("tag", ["", "a,b"])
def test_a_tag_with_a_comma_is_rejected(tag: str) -> None:
    with pytest.raises(InvalidArgumentError, match="tag"):
        Session(Endpoint(host="localhost"), tag=tag)


def test_a_port_without_a_server_is_reported_within_the_timeout() -> None:
    endpoint = Endpoint(host="127.0.0.1", port=free_port(), request_timeout=2)
    with ends_within(), pytest.raises(ConnectError, match="no server is listening there"), Session(endpoint):
        pass
    with pytest.raises(ConnectError, match="no server is listening there"):
        check_server(endpoint)


def test_an_unknown_host_is_reported() -> None:
    with pytest.raises(ConnectError, match="could not be resolved"):
        check_server(Endpoint(host="no-such-host.invalid", request_timeout=5))


def test_a_missing_or_wrong_token_is_reported(token_server: tuple[str, int, str]) -> None:
    host, port, token = token_server
    with pytest.raises(ConnectError, match="requires a bearer token"):
        check_server(Endpoint(host=host, port=port))
    with pytest.raises(ConnectError, match="rejected the bearer token") as caught:
        check_server(Endpoint(host=host, port=port, token="wrong-" + token))
    assert token not in str(caught.value)
    assert check_server(Endpoint(host=host, port=port, token=token)).startswith("4.")


def test_closing_takes_seconds_when_the_server_has_gone(own_server: OwnServer) -> None:
    with Session(own_server.endpoint) as session:
        assert session.spark.range(3).count() == 3
        own_server.stop()
        assert not session.rpc.is_alive(session.id)
        with ends_within():
            session.close()


def test_cleanups_are_called_while_the_session_is_alive_and_cannot_keep_it_open(
    endpoint: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    called: list[object] = []
    never = threading.Event()
    with ends_within(), Session(endpoint) as session:
        session.add_cleanup(lambda: never.wait(60))
        session.add_cleanup(lambda: called.append(1 / 0))
        session.add_cleanup(lambda: called.append(session.spark.version[:2]))
    never.set()
    assert called == ["4."]
    assert "ZeroDivisionError" in caplog.text


def test_checking_whether_a_session_is_alive_creates_none(endpoint: Endpoint) -> None:
    with Session(endpoint) as session, Session(endpoint) as other:
        assert session.rpc.is_alive(other.id)
        other.close()
        assert not session.rpc.is_alive(other.id)
        unknown = str(uuid.uuid4())
        assert [session.rpc.is_alive(unknown), session.rpc.is_alive(unknown)] == [False, False]


def test_a_process_ends_when_its_server_has_gone(own_server: OwnServer) -> None:
    script = (
        "import os, signal, sys\n"
        "from airflow_provider_sparkdeps.spark.endpoint import Endpoint\n"
        "from airflow_provider_sparkdeps.spark.session import Session\n"
        "with Session(Endpoint(host='localhost', port=int(sys.argv[1]))) as session:\n"
        "    print(session.spark.range(3).count())\n"
        "    os.kill(int(sys.argv[2]), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", script, str(own_server.port), str(own_server.pid)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip() == "3"


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"host": ""}, "host"),
        ({"host": "sc://spark:15002"}, "host"),
        ({"host": "spark", "port": 0}, "port"),
        ({"host": "spark", "delivery": "mail"}, "delivery"),
        ({"host": "spark", "request_timeout": 0}, "request_timeout"),
        ({"host": "spark", "headers": {"X-Team": "a"}}, "Header name"),
        ({"host": "spark", "client_certificate": "a.pem"}, "client_key"),
        ({"host": "spark", "tls": False, "token": "secret-token"}, "Enable TLS"),
        ({"host": "spark", "ca_certificate": "ca.pem"}, "TLS is off"),
    ],
)
def test_an_invalid_field_is_reported_by_name(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidArgumentError, match=problem) as caught:
        Endpoint(**fields)
    assert "secret-token" not in str(caught.value)


def test_an_invalid_certificate_is_reported_by_name(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")
    for given in (tmp_path / "ca.pem", tmp_path / "missing.pem"):
        with pytest.raises(InvalidArgumentError, match="ca_certificate"):
            check_server(Endpoint(host="spark", tls=True, ca_certificate=str(given)))


def test_an_endpoint_does_not_print_its_secrets(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    endpoint = Endpoint(host="spark", tls=True, token="secret-token", headers={"x-key": "secret-header"})
    assert "secret" not in repr(endpoint)

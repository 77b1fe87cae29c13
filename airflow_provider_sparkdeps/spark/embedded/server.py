"""Starts and stops a Spark Connect server on this machine."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from airflow_provider_sparkdeps.exceptions import ConnectError, InvalidArgumentError
from airflow_provider_sparkdeps.spark.embedded import watchdog
from airflow_provider_sparkdeps.spark.embedded.java import find_java

_LOCAL = re.compile(r"local\[(?:\*|[1-9]\d*)(?:\s*,\s*[1-9]\d*)?\]")
_CLUSTER = re.compile(r"local-cluster\[\s*([1-9]\d*)\s*,\s*([1-9]\d*)\s*,\s*([1-9]\d*)\s*\]")
_SERVER = "org.apache.spark.sql.connect.service.SparkConnectServer"
_STARTED = re.compile(r"Spark Connect server started at: \S*:(\d+)\s")
# Options for a fast start: only the quick compiler and the small garbage collector. Without UsePerfData, the JVM writes
# nothing to /tmp.
_JVM = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xshare:auto -XX:-UsePerfData -Djava.net.preferIPv4Stack=true"
# Prefixes of variables that would make the server use another Spark, or modules of this process.
_EXCLUDED = ("SPARK_", "PYSPARK_", "PYTHON", "HADOOP_CONF_DIR", "YARN_CONF_DIR")
_LOG4J = f"""\
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.target = SYSTEM_ERR
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{{yy/MM/dd HH:mm:ss}} %p %c{{1}}: %m%n%ex
logger.connect.name = {_SERVER}
logger.connect.level = info
"""


def is_embedded_master(host: str) -> bool:
    """Return whether a host is a master for an `EmbeddedServer`: local[2], local[*] or local-cluster[2,1,1024]."""
    return bool(_LOCAL.fullmatch(host) or _CLUSTER.fullmatch(host))


class EmbeddedServer:
    """A Spark Connect server on a loopback port, which stops at the latest when this process ends.

    .. code-block:: python

        with EmbeddedServer() as server:
            spark = SparkSession.builder.remote(server.url).create()

    :param master: `local[...]`, or `local-cluster[executors, cores per executor, MB per executor]`, where each executor
        is a separate process.
    :param conf: Spark settings, which override the defaults of this class.
    :param work_dir: directory for all files of the server. Default: a temporary directory, removed at the end.
    :param token: the bearer token that clients must send. Default: none.
    :param startup_timeout: maximum seconds until the server is ready.
    :param command_prefix: a command that runs the server's command with `exec`, e.g. `unshare -m`.
    :param environ: environment variables of the server, in addition to those that it needs. Default: the environment of
        this process without the variables for Spark and Python.
    :param port: port to listen on. Default: a free port.
    :raises InvalidArgumentError: if `master` is not one of these, or Java can't use `work_dir`.
    """

    host = "localhost"

    def __init__(
        self,
        master: str = "local-cluster[2,1,1024]",
        *,
        conf: Mapping[str, str] | None = None,
        work_dir: Path | None = None,
        token: str | None = None,
        startup_timeout: float = 120.0,
        command_prefix: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        port: int = 0,
    ) -> None:
        if not is_embedded_master(master):
            raise InvalidArgumentError(
                f"{master!r} is not a master for an embedded Spark Connect server. Write local[2], local[*] or, for "
                "executors in separate processes, local-cluster[2,1,1024] (number of executors, cores and MB of each)."
            )
        if work_dir and re.search(r'[:*"\\\n]', str(work_dir.absolute())):
            raise InvalidArgumentError(
                f"work_dir={str(work_dir)!r} can't be used in a Java class path. Choose a directory without colons, "
                "asterisks, quotes, backslashes and newlines in its path."
            )
        self.master = master
        self.port = port
        self.work_dir = work_dir.absolute() if work_dir else Path()
        self._is_temporary = work_dir is None
        self._conf = dict(conf or {})
        self._token = token
        self._startup_timeout = startup_timeout
        self._prefix = list(command_prefix)
        self._environ = environ
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._owner = 0

    @property
    def url(self) -> str:
        """The URL for `SparkSession.builder.remote`, without the token."""
        return f"sc://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the server's JVM."""
        return int((self.work_dir / "server.pid").read_text())

    @property
    def log_path(self) -> Path:
        """The log file of the server. The logs of executors are in `spark/work` in the same directory."""
        return self.work_dir / "server.log"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server, and wait until it accepts connections and has all executors.

        :raises ConnectError: if no Java is found, or the server does not start. The message has the end of its log.
        """
        if self._watchdog:
            return
        self._owner = os.getpid()
        if self._is_temporary:
            self.work_dir = Path(tempfile.mkdtemp(prefix="spark-connect-"))
        pid_file = self.work_dir / "server.pid"
        remove = str(self.work_dir) if self._is_temporary else ""
        try:
            environ = self._prepare()
            command = [*self._prefix, *_server_command(environ)]
            with self.log_path.open("wb") as log:
                self._watchdog = subprocess.Popen(
                    [sys.executable, "-I", "-S", watchdog.__file__, str(self._owner), pid_file, remove, *command],
                    cwd=self.work_dir,
                    env=environ,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            self._wait_until_ready(self._watchdog)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server and all of its processes, within about 10 seconds."""
        # A fork of the owner has a copy of this object, but must not stop the server.
        if self._owner != os.getpid():
            return
        if self._watchdog:
            process, self._watchdog = self._watchdog, None
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            # Negative if the watchdog was killed. Then it has not stopped the server.
            if process.returncode < 0:
                watchdog.kill_session(process.pid)
        if self._is_temporary:
            shutil.rmtree(self.work_dir, ignore_errors=True)

    def restart(self) -> None:
        """Stop the server and start it again on the same port. Its sessions are lost, as in an outage."""
        self.stop()
        self.start()

    def _prepare(self) -> dict[str, str]:
        """Create the files of the server, and return its environment."""
        import pyspark

        # The workers of a local-cluster always write to SPARK_HOME/work. Hence a separate SPARK_HOME, with links to the
        # directories that Spark only reads.
        home = self.work_dir / "spark"
        (home / "conf").mkdir(parents=True, exist_ok=True)
        (self.work_dir / "tmp").mkdir(exist_ok=True)
        for name in ("jars", "bin", "python"):
            (home / name).unlink(missing_ok=True)
            (home / name).symlink_to(Path(pyspark.__file__).parent / name)
        (home / "conf/log4j2.properties").write_text(_LOG4J)
        defaults = home / "conf/spark-defaults.conf"
        defaults.touch(mode=0o600)
        lines = [f"{_escape(key)} = {_escape(value)}\n" for key, value in self._settings().items()]
        defaults.write_text("".join(lines), encoding="utf-8")
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(_EXCLUDED)}
        environ = {"PYSPARK_PYTHON": sys.executable} | dict(inherited if self._environ is None else self._environ)
        return environ | {
            "JAVA_HOME": str(find_java(environ).spark_compatible_home(self.work_dir / "java")),
            "SPARK_HOME": str(home),
            "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_SCALA_VERSION": "2.13",
            "TMPDIR": str(self.work_dir / "tmp"),
        }

    def _settings(self) -> dict[str, str]:
        settings = {
            "spark.master": self.master,
            "spark.app.name": "sparkdeps-embedded",
            "spark.connect.grpc.binding.address": "127.0.0.1",
            "spark.connect.grpc.binding.port": str(self.port),
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.sql.warehouse.dir": (self.work_dir / "warehouse").as_uri(),
            "spark.sql.catalogImplementation": "in-memory",
            "spark.ui.enabled": "false",
        }
        if cluster := _CLUSTER.fullmatch(self.master):
            executors, cores, megabytes = map(int, cluster.groups())
            # Spark rejects a worker that is smaller than its executor, which has 1 GB by default.
            settings["spark.executor.memory"] = f"{megabytes}m"
            # Start when all executors are registered. Otherwise the first query would run on the first one only.
            settings["spark.cores.max"] = str(executors * cores)
            settings["spark.scheduler.minRegisteredResourcesRatio"] = "1.0"
            settings["spark.scheduler.maxRegisteredResourcesWaitingTime"] = f"{self._startup_timeout * 1000:.0f}ms"
        if self._token is not None:
            # Not as an environment variable, which Python workers would inherit.
            settings["spark.connect.authenticate.token"] = self._token
        settings |= self._conf
        jvm = f'{_JVM} "-Djava.io.tmpdir={self.work_dir / "tmp"}" "-Dderby.system.home={self.work_dir}"'
        for key in ("spark.driver.extraJavaOptions", "spark.executor.extraJavaOptions"):
            settings[key] = f"{jvm} {settings.get(key, '')}".strip()
        return settings

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self._startup_timeout
        while time.monotonic() < deadline:
            has_ended = process.poll() is not None
            log = self.log_path.read_text(errors="replace")
            if has_ended:
                raise self._failure(f"ended with exit code {process.returncode} before it was ready", log)
            if started := _STARTED.search(log):
                self.port = int(started[1])
                try:
                    socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
                except OSError as error:
                    raise self._failure(f"did not accept a connection on port {self.port}: {error}", log) from error
                return
            time.sleep(0.05)
        raise self._failure(f"was not ready after {self._startup_timeout:g} s", log)

    def _failure(self, what: str, log: str) -> ConnectError:
        tail = "\n".join([line for line in log.splitlines() if not line.startswith("\tat ")][-30:])
        return ConnectError(
            f"The embedded Spark Connect server ({self.master}) {what}. Fix the error in its log below, or set a "
            f"longer startup_timeout if it was only slow. Set work_dir to keep the whole log.\n{tail}"
        )


def _server_command(environ: Mapping[str, str]) -> list[str]:
    """Return the command of the server, written by Spark's launcher, which knows the Java options of its release.

    `bin/spark-submit` does the same, but needs bash and other tools on PATH.
    """
    home = environ["SPARK_HOME"]
    jvm = [f"{environ['JAVA_HOME']}/bin/java", "-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"]
    launcher = ["-cp", f"{home}/jars/*", "org.apache.spark.launcher.Main"]
    submit = ["org.apache.spark.deploy.SparkSubmit", "--class", _SERVER]
    run = subprocess.run(
        [*jvm, *launcher, *submit], env=environ, cwd=home, capture_output=True, text=True, timeout=120, check=False
    )
    # The output before the first NUL and newline is meant for the user.
    command = run.stdout.partition("\0\n")[2].split("\0")[:-1]
    if run.returncode or not command:
        raise ConnectError(
            "Could not start the embedded Spark Connect server: Spark's launcher failed. Fix the error in its output.\n"
            f"{run.stdout}{run.stderr}"
        )
    return command


def _escape(text: str) -> str:
    """Escape a key or value for a Java properties file."""
    quoted = re.sub(r"[\\:=#! ]", r"\\\g<0>", text)
    return quoted.replace("\n", r"\n").replace("\r", r"\r").replace("\t", r"\t")

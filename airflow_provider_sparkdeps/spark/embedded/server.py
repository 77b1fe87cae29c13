"""A Spark Connect server on this machine, for development, demos and tests."""

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
from types import TracebackType
from typing import Self

from airflow_provider_sparkdeps.exceptions import ConnectError, InvalidArgumentError
from airflow_provider_sparkdeps.spark.embedded import watchdog
from airflow_provider_sparkdeps.spark.embedded.java import Java, find_java

__all__ = ["EmbeddedServer", "Java", "find_java", "is_embedded_master"]

_LOCAL = re.compile(r"local\[(?:\*|[1-9]\d*)(?:\s*,\s*[1-9]\d*)?\]")
_CLUSTER = re.compile(r"local-cluster\[\s*([1-9]\d*)\s*,\s*([1-9]\d*)\s*,\s*([1-9]\d*)\s*\]")
_SERVER = "org.apache.spark.sql.connect.service.SparkConnectServer"
_STARTED = re.compile(r"Spark Connect server started at: \S*:(\d+)\s")
# Start-up counts for more than speed in the long run, so only the quick compiler and the small collector. Without
# UsePerfData the JVM writes nothing to /tmp.
_JVM = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xshare:auto -XX:-UsePerfData -Djava.net.preferIPv4Stack=true"
# Variables that would bring another Spark, or this process's modules, to the server.
_ALIASES = ("SPARK_", "PYSPARK_", "PYTHON", "HADOOP_CONF_DIR", "YARN_CONF_DIR")
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
    """Say whether `host` is a master for an `EmbeddedServer`: local[2], local[*], local-cluster[2,1,1024]."""
    return bool(_LOCAL.fullmatch(host) or _CLUSTER.fullmatch(host))


class EmbeddedServer:
    """A Spark Connect server on a loopback port, as a context manager; it never outlives this process.

    ```python
    with EmbeddedServer() as server:
        spark = SparkSession.builder.remote(server.url).create()
    ```

    :param master: `local[...]`, or `local-cluster[executors, cores of each, MB of each]`, whose executors are
        processes of their own.
    :param conf: Spark's configuration, over the defaults of this class.
    :param work_dir: where all files of the server go; a temporary directory, removed at the end, by default.
    :param token: what clients have to send as `token`; none by default.
    :param startup_timeout: seconds until the server must be ready.
    :param command_prefix: a command in front of the server's own, such as `unshare -m`, that ends in its `exec`.
    :param environ: the server's environment variables, under those that it needs; by default those of this
        process, except Spark's and Python's.
    :param port: the port to listen on; a free one by default.
    :raises InvalidArgumentError: `master` is none of these, or Java can't work in a directory of that name.
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
                f"{master!r} is no master for an embedded Spark Connect server. Write local[2], local[*] or, "
                "for executors that are processes of their own, local-cluster[2,1,1024] (how many, cores of "
                "each, MB of each)."
            )
        if work_dir and re.search(r'[:*"\\\n]', str(work_dir.absolute())):
            raise InvalidArgumentError(
                f"work_dir={str(work_dir)!r} can't stand in a Java class path. Name a directory without "
                "colon, asterisk, quote and backslash."
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
        self._guard: subprocess.Popen[bytes] | None = None
        self._owner = 0

    @property
    def url(self) -> str:
        """The address for `SparkSession.builder.remote`, without the token."""
        return f"sc://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the server's JVM."""
        return int((self.work_dir / "server.pid").read_text())

    @property
    def log_path(self) -> Path:
        """The server's log; those of the executors are in `spark/work` beside it."""
        return self.work_dir / "server.log"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server, and wait until it listens and has all its executors.

        :raises ConnectError: no Java was found, or the server did not get ready; the message ends with its log.
        """
        if self._guard:
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
                self._guard = subprocess.Popen(
                    [
                        sys.executable,
                        "-I",
                        "-S",
                        watchdog.__file__,
                        str(self._owner),
                        pid_file,
                        remove,
                        *command,
                    ],
                    cwd=self.work_dir,
                    env=environ,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            self._await_ready(self._guard)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server and all its processes, within about 10 seconds."""
        # A fork of the owner has this object too, yet the server is not its own.
        if self._owner != os.getpid():
            return
        if self._guard:
            process, self._guard = self._guard, None
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            # Negative: the guard itself was killed, and left its charges behind.
            if process.returncode < 0:
                watchdog.kill_session(process.pid)
        if self._is_temporary:
            shutil.rmtree(self.work_dir, ignore_errors=True)

    def restart(self) -> None:
        """Stop the server, and start it anew on the same port: its sessions are lost, as in an outage."""
        self.stop()
        self.start()

    def _prepare(self) -> dict[str, str]:
        """Lay out the work directory, and return the environment of the server."""
        import pyspark

        # The workers of a local-cluster write to SPARK_HOME/work, whatever the configuration says: hence a home
        # of ours, with links to what Spark only reads.
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
        own = {key: value for key, value in os.environ.items() if not key.startswith(_ALIASES)}
        environ = {"PYSPARK_PYTHON": sys.executable} | dict(own if self._environ is None else self._environ)
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
            # A worker smaller than its executor is refused, and executors are of 1 GB unless told otherwise.
            settings["spark.executor.memory"] = f"{megabytes}m"
            # The first query would else run on whichever executor came first.
            settings["spark.cores.max"] = str(executors * cores)
            settings["spark.scheduler.minRegisteredResourcesRatio"] = "1.0"
        if self._token is not None:
            # Not as an environment variable, since Python workers would inherit it.
            settings["spark.connect.authenticate.token"] = self._token
        settings |= self._conf
        jvm = f'{_JVM} "-Djava.io.tmpdir={self.work_dir / "tmp"}" "-Dderby.system.home={self.work_dir}"'
        for key in ("spark.driver.extraJavaOptions", "spark.executor.extraJavaOptions"):
            settings[key] = f"{jvm} {settings.get(key, '')}".strip()
        return settings

    def _await_ready(self, process: subprocess.Popen[bytes]) -> None:
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
                    raise self._failure(f"takes no connection on port {self.port}: {error}", log) from error
                return
            time.sleep(0.05)
        raise self._failure(f"was not ready after {self._startup_timeout:g} s", log)

    def _failure(self, what: str, log: str) -> ConnectError:
        tail = "\n".join([line for line in log.splitlines() if not line.startswith("\tat ")][-30:])
        return ConnectError(
            f"The embedded Spark Connect server ({self.master}) {what}. Mend what its log says below; give a "
            f"work_dir to keep the whole log, or a greater startup_timeout if it was merely slow.\n{tail}"
        )


def _server_command(environ: Mapping[str, str]) -> list[str]:
    """Have Spark's launcher write the command, since it alone knows this release's options for Java.

    `bin/spark-submit` does the same, and needs bash and more on PATH.
    """
    home = environ["SPARK_HOME"]
    jvm = [f"{environ['JAVA_HOME']}/bin/java", "-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"]
    launcher = ["-cp", f"{home}/jars/*", "org.apache.spark.launcher.Main"]
    submit = ["org.apache.spark.deploy.SparkSubmit", "--class", _SERVER]
    run = subprocess.run(
        [*jvm, *launcher, *submit],
        env=environ,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # The user's eyes are for what stands before the first NUL and newline.
    command = run.stdout.partition("\0\n")[2].split("\0")[:-1]
    if run.returncode or not command:
        raise ConnectError(f"Spark's launcher can't make the server's command:\n{run.stdout}{run.stderr}")
    return command


def _escape(text: str) -> str:
    """Quote for a Java properties file."""
    quoted = re.sub(r"[\\:=#! ]", r"\\\g<0>", text)
    return quoted.replace("\n", r"\n").replace("\r", r"\r").replace("\t", r"\t")

"""Conda environments built by rattler, uv and conda-pack from a local channel, and run on executors."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from pyspark.sql.functions import pandas_udf, udf  # type: ignore[attr-defined]

from airflow_provider_sparkdeps.archives import Archive, ArchiveStore
from airflow_provider_sparkdeps.environments import CondaEnvironment
from airflow_provider_sparkdeps.environments.context import BuiltPrefix
from airflow_provider_sparkdeps.environments.prefix.verify import verify_prefix
from airflow_provider_sparkdeps.exceptions import ArchiveError, BuildError
from airflow_provider_sparkdeps.spark.attach import attach
from airflow_provider_sparkdeps.spark.delivery.launcher import launcher_archive
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer
from airflow_provider_sparkdeps.spark.endpoint import Endpoint
from airflow_provider_sparkdeps.spark.session import Session

from ...support.build_contexts import build as make_prefix
from ...support.build_contexts import make_context
from ...support.conda_builds import Builder, relocate
from ...support.conda_channel import MINOR, PLACEHOLDER
from .test_specs import SHA

VERSION = ".".join(map(str, sys.version_info[:3]))


def test_it_runs_after_it_was_moved_and_reports_its_packages(build: Builder) -> None:
    lines: list[str] = []
    moved, built = build("cheese=1.0", "cellar", pip=["tabulate"], lines=lines)
    verify_prefix(moved, built, deadline=make_context().deadline)
    assert built.python == VERSION
    assert built.packages.keys() == {"cheese", "tabulate"}
    assert built.packages["cheese"] == "1.0"
    assert [line.split(" sha256:")[0] for line in built.lock] == [
        "cellar=1.0=h0_0",
        "cheese=1.0=py_0",
        f"pip:tabulate=={built.packages['tabulate']}",
        f"python={VERSION}=h0_0",
    ]
    assert [len(line.rpartition(":")[2]) for line in built.lock if " " in line] == [64] * 3
    assert {"resolve", "install", "relocate"} <= {line.partition(":")[0] for line in lines}
    assert "install: linked 3 of 3 packages" in lines


@pytest.mark.parametrize("pip", [[], ["tabulate"]])
def test_its_lock_can_be_resolved_without_a_build(build: Builder, channel: str, pip: list[str]) -> None:
    environment = CondaEnvironment(["cheese"], channels=[channel], pip=pip)
    lines: list[str] = []
    assert environment.resolve_lock(make_context(lines=lines)) == build(environment=environment)[1].lock
    assert not [line for line in lines if line.startswith("relocate")]


@pytest.mark.slow
def test_builds_in_two_directories_are_identical(channel: str, tmp_path: Path) -> None:
    environment = CondaEnvironment(["cheese", "cellar"], channels=[channel], pip=["tabulate"])
    stores = [ArchiveStore(tmp_path / name) for name in ("one", "two-of-another-length")]
    archives = [store.build(environment, timeout=60) for store in stores]
    assert archives[0].sha256 == archives[1].sha256


def test_it_contains_no_path_of_this_machine_and_no_channel(build: Builder, tmp_path: Path, channel: str) -> None:
    moved, built = build("cheese", "cellar", pip=["tabulate"])
    local = [os.fsencode(tmp_path), channel.encode(), os.fsencode(os.environ["RATTLER_CACHE_DIR"])]
    for path in moved.rglob("*"):
        if path.is_file() and not path.is_symlink():
            content = path.read_bytes()
            assert not [each for each in local if each in content], path
    assert not [line for line in built.lock if channel in line or "://" in line]


def test_files_that_contain_the_path_get_the_final_path(build: Builder) -> None:
    moved, built = build("cellar")
    relocate(moved, built, "/opt/elsewhere")
    where = (moved / "share/cellar/where.txt").read_text()
    assert where == "data=/opt/elsewhere/share/cellar\nlog=/opt/elsewhere/var\n"
    path = b"/opt/elsewhere/share/cellar"
    padding = bytes(len(PLACEHOLDER) + len("/share/cellar") - len(path))
    assert (moved / "lib/cellar.bin").read_bytes() == b"\x7fELF\xff" + path + padding + b"\0\xfe\xffafter"
    (sysconfig,) = (moved / "lib" / f"python{MINOR}").glob("_sysconfigdata*.py")
    assert "/opt/elsewhere" in sysconfig.read_text()
    assert PLACEHOLDER not in sysconfig.read_text()


def test_relocating_writes_nothing_into_the_package_cache(build: Builder, package_cache: Path) -> None:
    moved, built = build("cellar")
    relocate(moved, built, "/opt/elsewhere")
    (cached,) = package_cache.rglob("where.txt")
    assert PLACEHOLDER in cached.read_text()


def test_a_path_that_is_too_long_for_binaries_is_an_error(build: Builder) -> None:
    moved, built = build("cellar")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        relocate(moved, built, "/" + "x" * 255)
    assert "is longer than the 255 characters that its files have room for" in caught.value.stderr


@pytest.mark.parametrize("script", ["cheese", "cellar", "tabulate"])
def test_scripts_find_the_interpreter_in_their_directory(build: Builder, script: str) -> None:
    moved, _ = build("cheese", "cellar", pip=["tabulate"])
    done = subprocess.run([moved / "bin" / script], input="a b\n", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if script != "tabulate":
        assert str(moved) in done.stdout


def test_scripts_run_although_the_build_had_a_long_path(channel: str, tmp_path: Path) -> None:
    # Then rattler and uv let the shell call Python, since the path is too long for a shebang.
    prefix = tmp_path / ("long" * 20) / "prefix"
    prefix.parent.mkdir()
    environment = CondaEnvironment(["cheese=1.0"], channels=[channel], pip=["tabulate"])
    make_prefix(environment, prefix)
    moved = prefix.rename(tmp_path / "moved")
    for script in ("cheese", "tabulate"):
        subprocess.run([moved / "bin" / script], input="a b\n", text=True, check=True, stdout=subprocess.DEVNULL)


def test_pip_packages_do_not_replace_conda_packages(build: Builder) -> None:
    with pytest.raises(BuildError, match=r"(?s)uv could not resolve the requirements.*cheese==1\.0"):
        build("cheese=1.0", pip=["cheese>=2"])


def test_a_lock_installs_exactly_its_packages(channel: str, build: Builder, tmp_path: Path) -> None:
    urls = [f"{channel}/linux-64/python-{VERSION}-h0_0.conda", f"{channel}/noarch/cheese-1.0-py_0.conda"]
    (tmp_path / "lock.txt").write_text("\n".join(["@EXPLICIT", *urls]))
    moved, built = build(environment=CondaEnvironment.from_lock(tmp_path / "lock.txt"))
    verify_prefix(moved, built, deadline=make_context().deadline)
    assert built.packages == {"cheese": "1.0"}
    done = subprocess.run([moved / "bin" / "cheese"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["cheese", "1.0", str(moved)]


def test_a_package_that_does_not_match_its_lock_is_rejected(channel: str, build: Builder) -> None:
    urls = [f"{channel}/linux-64/python-{VERSION}-h0_0.conda", f"{channel}/noarch/cheese-1.0-py_0.conda#{SHA}"]
    with pytest.raises(BuildError, match=r"cheese-1\.0-py_0\.conda is not the one that was locked: its sha256 is"):
        build(environment=CondaEnvironment(explicit=urls))


def test_a_lock_without_the_right_python_is_rejected(channel: str, build: Builder) -> None:
    with pytest.raises(BuildError, match="The lock has no python"):
        build(environment=CondaEnvironment(explicit=[f"{channel}/noarch/cheese-1.0-py_0.conda"]))
    python = f"{channel}/linux-64/python-{VERSION}-h0_0.conda"
    with pytest.raises(BuildError, match=rf'The lock has Python {VERSION}, not 3\.4.*Set python="{MINOR}"'):
        build(environment=CondaEnvironment(explicit=[python], python="3.4"))


def test_it_can_be_built_while_an_event_loop_runs(build: Builder) -> None:
    async def main() -> BuiltPrefix:
        return build("cheese")[1]

    assert asyncio.run(main()).packages == {"cheese": "2.0"}


def test_builds_in_several_threads_do_not_affect_each_other(build: Builder) -> None:
    with ThreadPoolExecutor(3) as pool:
        built = list(pool.map(lambda _: build("cheese", "cellar"), range(3)))
    assert len({each.lock for _, each in built}) == 1
    verify_prefix(*built[-1], deadline=make_context().deadline)


@pytest.mark.slow
def test_building_again_after_a_fork_fails_at_once(channel: str, tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\n"
        "from airflow_provider_sparkdeps.archives import ArchiveStore\n"
        "from airflow_provider_sparkdeps.environments import CondaEnvironment\n"
        f"environment = CondaEnvironment(['cheese'], channels=[{channel!r}])\n"
        "def build(name):\n"
        f"    ArchiveStore(Path({str(tmp_path)!r}) / name).build(environment, timeout=30)\n"
        "build('parent')\n"
        "if os.fork():\n    os.wait()\nelse:\n    build('child')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
    assert "BuildError: rattler was used before this process was forked" in done.stderr


def test_the_error_for_a_missing_rattler_names_the_extra(build: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rattler", None)
    with pytest.raises(BuildError, match=r"pip install 'airflow-provider-sparkdeps\[conda\]'"):
        build("cheese")


def test_another_platform_is_rejected(build: Builder) -> None:
    with pytest.raises(BuildError, match="can't build for linux-vax"):
        build("cheese", platform="linux-vax")


def test_it_runs_where_the_python_of_the_channel_does_not_exist(build: Builder) -> None:
    if sys.base_prefix == "/usr" or os.geteuid() != 0 or subprocess.call(["unshare", "-m", "true"]) != 0:
        pytest.skip("hiding an interpreter needs root, mount namespaces and a Python outside of /usr")
    moved, _ = build("cheese")
    hide = f"mount -t tmpfs none '{sys.base_prefix}' && exec \"$@\""
    code = "import ssl, sqlite3, ctypes, sys, cheese; print(sys.prefix, cheese.__version__)"
    command: list[str | Path] = ["unshare", "-m", "sh", "-c", hide, "sh", moved / "bin/python", "-c", code]
    done = subprocess.run(command, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, [str(moved), "2.0"]), done.stderr


def test_a_udf_runs_in_it_and_its_files_contain_the_path_on_the_executor(
    channel: str, server: EmbeddedServer, tmp_path: Path
) -> None:
    store = ArchiveStore(tmp_path / "store")
    archive = store.build(CondaEnvironment(["cheese=1.0", "cellar"], channels=[channel]), timeout=60)

    with Session(Endpoint(host=server.host, port=server.port)) as session:
        assert attach(session, archive, store)

        @udf("string", useArrow=False)
        def taste(_: int) -> str:
            import cheese

            where = (Path(sys.prefix) / "share/cellar/where.txt").read_text().split()[0]
            script = subprocess.run([f"{sys.prefix}/bin/cheese"], capture_output=True, text=True, check=True)
            return json.dumps([cheese.__version__, sys.prefix, where, script.stdout.split()])

        rows = session.spark.range(2, numPartitions=2).select(taste("id")).collect()
    homes = {
        str(path / "sparkdeps" / archive.short_digest) for path in (server.work_dir / "spark/work").glob("app-*/*")
    }
    for row in rows:
        version, prefix, where, script = json.loads(row[0])
        assert version == "1.0"
        assert prefix in homes
        assert where == f"data={prefix}/share/cellar"
        assert script == ["cheese", "1.0", prefix]


def test_pandas_udfs_run_in_it_with_packages_from_pip(channel: str, server: EmbeddedServer, tmp_path: Path) -> None:
    store = ArchiveStore(tmp_path / "store")
    environment = CondaEnvironment(["cheese"], channels=[channel], pip=["pandas<3", "pyarrow"])
    archive = store.build(environment, timeout=120)
    with Session(Endpoint(host=server.host, port=server.port)) as session:
        attach(session, archive, store)

        def taste(ids: pd.Series) -> pd.Series:
            import cheese

            return ids.map(lambda _: f"{sys.prefix} {cheese.__version__}")

        frame = session.spark.range(2, numPartitions=2).select(pandas_udf(taste, "string")("id"))
        rows = frame.collect()
    homes = [path / "sparkdeps" / archive.short_digest for path in (server.work_dir / "spark/work").glob("app-*/*")]
    assert {row[0] for row in rows} <= {f"{home} 2.0" for home in homes}


@pytest.mark.slow
def test_the_launcher_fails_if_the_path_is_too_long_for_binaries_and_leaves_nothing(
    channel: str, tmp_path: Path
) -> None:
    store = ArchiveStore(tmp_path / "store")
    archive = store.build(CondaEnvironment(["cellar"], channels=[channel]), timeout=60)

    def launch(executor: Path) -> subprocess.CompletedProcess[str]:
        session = executor / "session"
        launcher = session / "sparkdeps/env-1"
        launcher.mkdir(parents=True)
        shutil.copy(store.fetch(archive), session)
        subprocess.run(["tar", "-xzf", "-", "-C", launcher], input=launcher_archive(archive), check=True)
        code = "import sys; print(open(sys.prefix + '/share/cellar/where.txt').readline())"
        command: list[str | Path] = [launcher / "bin/python", "-c", code]
        return subprocess.run(command, cwd=session, capture_output=True, text=True, check=False)

    short = launch(tmp_path / "short")
    home = tmp_path / "short/sparkdeps" / archive.short_digest
    assert short.stdout.strip() == f"data={home}/share/cellar", short.stderr
    long = tmp_path / ("x" * 130) / ("y" * 130)
    failed = launch(long)
    assert failed.returncode == 1
    assert "Could not prepare" in failed.stderr
    assert "is longer than the 255 characters that its files have room for" in failed.stderr
    assert sorted(path.suffix for path in (long / "sparkdeps").iterdir()) == [".lock", ".used"]


def test_a_manifest_may_name_a_script_to_run_after_unpacking(channel: str, tmp_path: Path) -> None:
    archive = ArchiveStore(tmp_path).build(CondaEnvironment(["cheese"], channels=[channel]), timeout=60)
    assert archive.post_unpack_script
    data = archive.to_dict()
    assert Archive.from_dict(data) == archive
    del data["post_unpack_script"]
    assert Archive.from_dict(data).post_unpack_script is None
    with pytest.raises(ArchiveError, match="post_unpack_script"):
        Archive.from_dict({**data, "post_unpack_script": "../../bin/sh"})

"""Conda environments: as values, built by rattler from a channel made here, packed by conda-pack, on executors."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.server
import itertools
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyspark.sql.functions import pandas_udf, udf

from airflow_provider_sparkdeps.archives import Archive, ArchiveStore
from airflow_provider_sparkdeps.environments import CondaEnvironment, Environment
from airflow_provider_sparkdeps.environments.conda.logins import CONDA_TOKEN
from airflow_provider_sparkdeps.environments.context import BuildContext, BuiltPrefix, Login
from airflow_provider_sparkdeps.environments.prefix.verify import verify_prefix
from airflow_provider_sparkdeps.exceptions import ArchiveError, BuildError, InvalidArgumentError
from airflow_provider_sparkdeps.spark.attach import attach
from airflow_provider_sparkdeps.spark.delivery.launcher import launcher_archive
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer
from airflow_provider_sparkdeps.spark.endpoint import Endpoint
from airflow_provider_sparkdeps.spark.session import Session
from airflow_provider_sparkdeps.utils.deadline import Deadline

from ...support.conda_channel import MINOR, PLACEHOLDER, make_channel

ANY = "https://example.com/channel"
SHA = "sha256:" + "ab" * 32
SIX = f"{ANY}/noarch/six-1.17.0-pyhe01879c_1.conda"
Build = Callable[..., tuple[Path, BuiltPrefix]]


@pytest.fixture(scope="module", autouse=True)
def package_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """rattler's cache, which otherwise is the user's."""
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("rattler")
        patch.setenv("RATTLER_CACHE_DIR", str(cache))
        yield cache


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_channel(tmp_path_factory.mktemp("channel"))


@pytest.fixture
def build(channel: str, tmp_path: Path) -> Build:
    """Builds a wish and moves what was made to where it was not made."""
    numbers = itertools.count()

    def build(*dependencies: str, **options: Any) -> tuple[Path, BuiltPrefix]:
        environment = options.pop("environment", None)
        reports = options.pop("reports", [])
        logins = options.pop("logins", {})
        timeout = options.pop("timeout", 60)
        wish = environment or CondaEnvironment(list(dependencies), **{"channels": [channel], **options})
        number = next(numbers)
        prefix = tmp_path / f"build-{number}" / "prefix"
        prefix.parent.mkdir()
        context = BuildContext(Deadline(timeout, f"Building {wish.title}"), lambda *line: reports.append(line), logins)
        built = wish.build(prefix, context)
        return prefix.rename(tmp_path / f"moved-{number}"), built

    return build


def deadline() -> Deadline:
    return Deadline(60, "Checking for a test")


def key(*dependencies: str, **options: Any) -> str:
    return CondaEnvironment(list(dependencies), **{"channels": [ANY], **options}).key


class TestTheWish:
    """What it accepts, and what its key depends on."""

    def test_order_white_space_comments_spelling_and_repetition_do_not_change_the_key(self) -> None:
        assert key("pandas >=2,<3", "NumPy", "six=1.17.*") == key(
            "numpy # for pandas", "", "# six", "six =1.17.*", "pandas<3, >= 2", "numpy"
        )
        assert key("six 1.17") == key("six==1.17")
        assert key("six", pip=["Foo_Bar>1", "x"]) == key("six", pip=["x", "foo-bar >1  # y"])
        assert key("six", channels=[ANY + "/"]) == key("six")

    def test_whatever_changes_what_is_built_changes_the_key(self) -> None:
        keys = [
            key("six"),
            key("six=1.17"),
            key("six==1.17"),
            key("six", "numpy"),
            key("six", channels=[ANY, "conda-forge"]),
            key("six", channels=["conda-forge", ANY]),
            key("six", pip=["tabulate"]),
            key("six", pip=["tabulate"], index_conn_id="pypi"),
            key("six", pip=["tabulate"], index_conn_id="other"),
            key("six", python="3.9"),
            key("six", platform="linux-aarch64"),
            CondaEnvironment(locked=[SIX]).key,
            CondaEnvironment(locked=[f"{SIX}#{SHA}"]).key,
        ]
        assert len(set(keys)) == len(keys)

    def test_the_logins_of_channels_do_not_change_the_key_yet_travel_along(self) -> None:
        wish = CondaEnvironment(["six"], channels=[ANY], channel_conn_ids=["conda"], index_conn_id="pypi", pip=["x"])
        assert wish.key == key("six", pip=["x"], index_conn_id="pypi")
        assert wish.conn_ids == ("conda", "pypi")
        assert Environment.from_dict(wish.to_dict()).conn_ids == ("conda", "pypi")

    def test_it_survives_json_and_pickle(self) -> None:
        wish = CondaEnvironment(["six=1.17"], channels=["conda-forge"], pip=["x"], python=MINOR)
        again = Environment.from_dict(json.loads(json.dumps(wish.to_dict())))
        assert (again, again.key) == (wish, wish.key)
        assert pickle.loads(pickle.dumps(wish)) == wish
        assert {wish, again} == {wish}

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            ({}, "in one way"),
            ({"dependencies": ["six"], "locked": [SIX]}, "in one way"),
            ({"dependencies": ["six"]}, "channels is empty"),
            ({"dependencies": "six", "channels": [ANY]}, "is not a list"),
            ({"dependencies": [6], "channels": [ANY]}, "not a string"),
            ({"dependencies": ["-c conda-forge"], "channels": [ANY]}, "not a conda spec"),
            ({"dependencies": ["./six.conda"], "channels": [ANY]}, "not a conda spec"),
            ({"dependencies": ["six"], "channels": ANY}, "is not a list"),
            ({"dependencies": ["six"], "channels": ["./channel"]}, "is not a channel"),
            ({"dependencies": ["six"], "channels": [ANY], "pip": ["a b"]}, "is not a requirement"),
            ({"locked": ["six=1.17"]}, "is not a conda package"),
            ({"locked": [f"{SIX}#nonsense"]}, "is not a conda package"),
            ({"prefix": "/opt/conda"}, "from_prefix"),
        ],
    )
    def test_what_cannot_be_meant_is_refused_where_it_is_written(self, arguments: dict[str, Any], says: str) -> None:
        with pytest.raises(InvalidArgumentError, match=says):
            CondaEnvironment(**arguments)

    @pytest.mark.parametrize(
        "arguments",
        [
            {"channels": ["https://me:hunter2@example.com/channel"]},
            {"channels": ["https://example.com/t/hunter2/channel"]},
            {"channels": ["https://hunter2@example.com/channel"]},
            {"dependencies": ["https://example.com/t/hunter2/channel::six"]},
            {"dependencies": [], "locked": ["https://example.com/t/hunter2/noarch/six-1.17.0-py_0.conda"]},
        ],
    )
    def test_a_credential_is_refused_and_not_repeated(self, arguments: dict[str, Any]) -> None:
        with pytest.raises(InvalidArgumentError, match=r"holds a credential.*channel_conn_ids") as caught:
            CondaEnvironment(**{"dependencies": ["six"], "channels": [ANY], **arguments})
        assert "hunter2" not in str(caught.value)

    @pytest.mark.parametrize(
        "spec", ["python=3.4", "python 3.4.*", "python <3.5", "python==3.4.1", "conda::python=3.4"]
    )
    def test_a_python_that_is_not_the_workers_is_refused_with_the_way_out(self, spec: str) -> None:
        with pytest.raises(InvalidArgumentError, match=rf'contradicts Python {MINOR}.*say python="3\.[45]"'):
            CondaEnvironment([spec], channels=[ANY])
        if "<" not in spec:
            CondaEnvironment([spec], channels=[ANY], python="3.4")

    @pytest.mark.parametrize(
        "spec", [f"python={MINOR}", "python", "python >=3.8", "python =3.4|>=3.8", "python-dateutil=2"]
    )
    def test_a_python_that_can_be_the_workers_is_accepted(self, spec: str) -> None:
        assert CondaEnvironment([spec], channels=[ANY]).python_minor == MINOR

    def test_making_one_imports_nothing_heavy(self) -> None:
        code = (
            "import sys\nfrom airflow_provider_sparkdeps.environments import CondaEnvironment as C\n"
            "C(['six'], channels=['conda-forge'], pip=['x']).key\n"
            "print(sorted({'rattler', 'conda_pack', 'yaml', 'asyncio'} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"


class TestFiles:
    """environment.yml and lock files."""

    def write(self, path: Path, text: str) -> Path:
        path.write_text(text)
        return path

    def test_an_environment_yml_is_what_it_says(self, tmp_path: Path) -> None:
        text = f"""
            name: ignored
            channels: [{ANY}, nodefaults]
            dependencies:
              - six =1.17   # a comment
              - numpy
              - pip
              - pip:
                - tabulate
            """
        wish = CondaEnvironment.from_file(self.write(tmp_path / "environment.yml", text))
        assert wish == CondaEnvironment(["numpy", "six=1.17", "pip"], channels=[ANY], pip=["tabulate"])
        other = self.write(tmp_path / "other.yml", text.replace("numpy", "numpy   # fast").replace("ignored", "x"))
        assert CondaEnvironment.from_file(other).key == wish.key
        changed = self.write(tmp_path / "environment.yml", text.replace("numpy", "scipy"))
        assert CondaEnvironment.from_file(changed).key != wish.key

    def test_channels_of_the_argument_stand_in_where_the_file_has_none(self, tmp_path: Path) -> None:
        path = self.write(tmp_path / "environment.yml", "dependencies: [six]")
        assert CondaEnvironment.from_file(path, channels=[ANY]) == CondaEnvironment(["six"], channels=[ANY])
        with pytest.raises(InvalidArgumentError, match="channels is empty"):
            CondaEnvironment.from_file(path)

    @pytest.mark.parametrize("text", ["", "- six", "dependencies: six", "{", "dependencies: [{conda: [x]}]"])
    def test_what_is_no_environment_yml_is_refused(self, tmp_path: Path, text: str) -> None:
        with pytest.raises(InvalidArgumentError):
            CondaEnvironment.from_file(self.write(tmp_path / "environment.yml", text), channels=[ANY])

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidArgumentError, match=r"nowhere\.yml can't be read"):
            CondaEnvironment.from_file(tmp_path / "nowhere.yml")

    def test_locks_of_all_formats_with_the_same_packages_are_the_same_wish(self, tmp_path: Path) -> None:
        sha = SHA.removeprefix("sha256:")
        explicit = f"# made by conda\n@EXPLICIT\n{SIX}#{SHA}\n"
        other = {"conda": "https://example.com/channel/win-64/x-1-0.conda", "sha256": sha}
        pixi = {
            "version": 6,
            "environments": {
                "default": {"packages": {"linux-64": [{"conda": SIX}], "win-64": [{"conda": other["conda"]}]}}
            },
            "packages": [{"conda": SIX, "sha256": sha}, other],
        }
        package = {"name": "six", "version": "1.17.0", "manager": "conda", "hash": {"sha256": sha}, "url": SIX}
        conda_lock = {"version": 1, "package": [{**package, "platform": "linux-64"}, {**package, "platform": "osx-64"}]}
        paths = [
            self.write(tmp_path / "explicit.txt", explicit),
            self.write(tmp_path / "pixi.lock", json.dumps(pixi)),
            self.write(tmp_path / "conda-lock.yml", json.dumps(conda_lock)),
        ]
        wishes = {CondaEnvironment.from_lock(path, platform="linux-x86_64") for path in paths}
        assert wishes == {CondaEnvironment(locked=[f"{SIX}#{SHA}"], platform="linux-x86_64")}

    def test_pip_packages_of_a_lock_come_along(self, tmp_path: Path) -> None:
        wheel = "https://example.com/files/tabulate-0.9.0-py3-none-any.whl"
        git = "git+https://example.com/ours.git?rev=1#abc"
        named = [{"conda": SIX}, {"pypi": wheel}, {"pypi": f"direct+{wheel}2.whl"}, {"pypi": git}]
        packages = [
            {"conda": SIX},
            {"pypi": wheel, "name": "tabulate", "version": "0.9.0"},
            {"pypi": f"direct+{wheel}2.whl", "name": "direct", "version": "1"},
            {"pypi": git, "name": "ours", "version": "1"},
        ]
        pixi = {"environments": {"default": {"packages": {"linux-64": named}}}, "packages": packages}
        path = self.write(tmp_path / "pixi.lock", json.dumps(pixi))
        wish = CondaEnvironment.from_lock(path, platform="linux-x86_64")
        assert wish.pip == (f"direct @ {wheel}2.whl", f"ours @ {git}", "tabulate==0.9.0")

    def test_a_lock_for_other_platforms_only_is_refused(self, tmp_path: Path) -> None:
        pixi = {"environments": {"default": {"packages": {"win-64": []}}}, "packages": []}
        with pytest.raises(InvalidArgumentError, match="is not a lock of conda for linux-64"):
            CondaEnvironment.from_lock(self.write(tmp_path / "pixi.lock", json.dumps(pixi)), platform="linux-x86_64")


class TestBuilding:
    """By the real rattler and conda-pack, from the channel made here."""

    def test_it_runs_from_where_it_was_moved_to_and_says_what_is_in_it(self, build: Build) -> None:
        reports: list[tuple[str, str]] = []
        moved, built = build("cheese=1.0", "cellar", pip=["tabulate"], reports=reports)
        verify_prefix(moved, built, deadline=deadline())
        assert built.python == ".".join(map(str, sys.version_info[:3]))
        assert built.packages.keys() == {"cheese", "tabulate"}
        assert built.packages["cheese"] == "1.0"
        locked = [line.split(" sha256:")[0] for line in built.lock]
        assert [locked[0], locked[1], locked[3]] == [
            "cellar=1.0=h0_0",
            "cheese=1.0=py_0",
            f"python={built.python}=h0_0",
        ]
        assert locked[2] == f"pip:tabulate=={built.packages['tabulate']}"
        assert [len(line.rpartition(":")[2]) for line in built.lock if " " in line] == [64] * 3
        assert {"resolve", "install", "relocate"} <= {phase for phase, _ in reports}
        assert ("install", "linked 3 of 3 packages") in reports

    def test_built_twice_in_two_places_it_is_byte_for_byte_the_same(self, channel: str, tmp_path: Path) -> None:
        wish = CondaEnvironment(["cheese", "cellar"], channels=[channel], pip=["tabulate"])
        archives = [ArchiveStore(tmp_path / name).build(wish, timeout=60) for name in ("one", "two-of-another-length")]
        assert archives[0].sha256 == archives[1].sha256

    def test_no_path_of_this_machine_and_no_channel_is_in_it(self, build: Build, tmp_path: Path, channel: str) -> None:
        moved, built = build("cheese", "cellar", pip=["tabulate"])
        strangers = [os.fsencode(tmp_path), channel.encode(), os.fsencode(os.environ["RATTLER_CACHE_DIR"])]
        for path in moved.rglob("*"):
            if path.is_file() and not path.is_symlink():
                content = path.read_bytes()
                assert not [each for each in strangers if each in content], path
        assert not [line for line in built.lock if channel in line or "://" in line]

    def test_files_that_name_their_place_name_the_one_that_they_will_be_at(self, build: Build) -> None:
        moved, built = build("cellar")
        assert built.post_unpack_script is not None
        relocate(moved, built, "/opt/elsewhere")
        assert (
            moved / "share/cellar/where.txt"
        ).read_text() == "data=/opt/elsewhere/share/cellar\nlog=/opt/elsewhere/var\n"
        binary = (moved / "lib/cellar.bin").read_bytes()
        text = b"/opt/elsewhere/share/cellar"
        room = len(PLACEHOLDER) + len("/share/cellar") - len(text)
        assert binary == b"\x7fELF\xff" + text + bytes(room) + b"\0\xfe\xffafter"
        (sysconfig,) = (moved / "lib" / f"python{MINOR}").glob("_sysconfigdata*.py")
        assert "/opt/elsewhere" in sysconfig.read_text()
        assert PLACEHOLDER not in sysconfig.read_text()

    def test_nothing_is_written_into_ratters_cache(self, build: Build, package_cache: Path) -> None:
        moved, built = build("cellar")
        relocate(moved, built, "/opt/elsewhere")
        (cached,) = package_cache.rglob("where.txt")
        assert PLACEHOLDER in cached.read_text()

    def test_a_place_with_a_name_too_long_for_binaries_is_told(self, build: Build) -> None:
        moved, built = build("cellar")
        with pytest.raises(subprocess.CalledProcessError) as caught:
            relocate(moved, built, "/" + "x" * 255)
        assert "is longer than the 255 characters that there is room for" in caught.value.stderr

    @pytest.mark.parametrize("script", ["cheese", "cellar", "tabulate"])
    def test_scripts_find_the_interpreter_next_to_them(self, build: Build, script: str) -> None:
        moved, _ = build("cheese", "cellar", pip=["tabulate"])
        done = subprocess.run([moved / "bin" / script], input="a b\n", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        if script != "tabulate":
            assert str(moved) in done.stdout

    def test_a_conflict_is_explained_by_the_solver(self, build: Build) -> None:
        with pytest.raises(
            BuildError, match=r"(?s)rattler could not solve.*cracker.*would require\s+.*cheese <2"
        ) as caught:
            build("cheese=2.0", "cracker")
        assert len(str(caught.value).splitlines()) < 45

    def test_a_missing_package_is_named(self, build: Build) -> None:
        with pytest.raises(BuildError, match="No candidates were found for nosuch"):
            build("nosuch")

    def test_what_is_no_spec_for_rattler_is_told(self, build: Build) -> None:
        with pytest.raises(BuildError, match=r"(?s)rattler could not .*unable to parse version spec: =>2"):
            build("cheese => 2")

    def test_pip_packages_do_not_replace_condas(self, build: Build) -> None:
        with pytest.raises(BuildError, match=r"(?s)uv could not resolve the requirements.*cheese==1\.0"):
            build("cheese=1.0", pip=["cheese>=2"])

    def test_a_lock_installs_exactly_its_packages(self, channel: str, build: Build, tmp_path: Path) -> None:
        found = {path.name: path for path in Path(channel.removeprefix("file://")).rglob("*.conda")}
        names = [f"python-{'.'.join(map(str, sys.version_info[:3]))}-h0_0.conda", "cheese-1.0-py_0.conda"]
        (tmp_path / "lock.txt").write_text("@EXPLICIT\n" + "\n".join(found[name].as_uri() for name in names))
        moved, built = build(environment=CondaEnvironment.from_lock(tmp_path / "lock.txt"))
        verify_prefix(moved, built, deadline=deadline())
        assert built.packages == {"cheese": "1.0"}
        done = subprocess.run([moved / "bin" / "cheese"], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["cheese", "1.0", str(moved)]

    def test_a_package_that_is_not_what_the_lock_says_is_refused(self, channel: str, build: Build) -> None:
        python, cheese = f"python-{'.'.join(map(str, sys.version_info[:3]))}-h0_0", "cheese-1.0-py_0"
        locked = [f"{channel}/linux-64/{python}.conda", f"{channel}/noarch/{cheese}.conda#{SHA}"]
        with pytest.raises(BuildError, match=r"cheese-1\.0-py_0\.conda is not the one that was locked: its sha256 is"):
            build(environment=CondaEnvironment(locked=locked))

    def test_a_lock_without_python_is_refused(self, channel: str, build: Build) -> None:
        locked = [f"{channel}/noarch/cheese-1.0-py_0.conda"]
        with pytest.raises(BuildError, match="The lock has no python"):
            build(environment=CondaEnvironment(locked=locked))

    def test_it_can_be_built_where_an_event_loop_runs(self, build: Build) -> None:
        async def main() -> BuiltPrefix:
            return build("cheese")[1]

        assert asyncio.run(main()).packages == {"cheese": "2.0"}

    def test_builds_in_several_threads_do_not_disturb_one_another(self, build: Build) -> None:
        with ThreadPoolExecutor(3) as pool:
            built = list(pool.map(lambda _: build("cheese", "cellar"), range(3)))
        assert len({each.lock for _, each in built}) == 1
        verify_prefix(*built[-1], deadline=deadline())

    def test_a_fork_of_a_process_that_has_built_is_told_at_once(self, channel: str, tmp_path: Path) -> None:
        code = (
            "import os, sys\nfrom pathlib import Path\n"
            "from airflow_provider_sparkdeps.environments import CondaEnvironment\n"
            "from airflow_provider_sparkdeps.environments.context import BuildContext\n"
            "from airflow_provider_sparkdeps.utils.deadline import Deadline\n"
            f"wish = CondaEnvironment(['cheese'], channels=[{channel!r}])\n"
            "def build(name):\n"
            "    context = BuildContext(Deadline(30, 'Building'), lambda *_: None)\n"
            f"    wish.build(Path({str(tmp_path)!r}) / name, context)\n"
            "build('parent')\n"
            "if os.fork():\n    os.wait()\nelse:\n    build('child')\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
        assert "BuildError: rattler was used before this process was forked" in done.stderr

    def test_a_missing_rattler_is_told_with_the_way_to_get_it(
        self, build: Build, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "rattler", None)
        with pytest.raises(BuildError, match=r"pip install 'airflow-provider-sparkdeps\[conda\]'"):
            build("cheese")

    def test_a_platform_other_than_this_is_refused(self, build: Build) -> None:
        with pytest.raises(BuildError, match="can't build for linux-vax"):
            build("cheese", platform="linux-vax")

    can_hide = os.geteuid() == 0 and shutil.which("unshare") and not subprocess.call(["unshare", "-m", "true"])

    @pytest.mark.skipif(not can_hide, reason="hiding an interpreter needs root and mount namespaces")
    def test_it_runs_with_the_python_that_the_channel_was_made_of_hidden(self, build: Build) -> None:
        if sys.base_prefix == "/usr":
            pytest.skip("hiding the system's Python is what test_builds.py does")
        moved, _ = build("cheese")
        hide = f"mount -t tmpfs none '{sys.base_prefix}' && exec \"$@\""
        code = "import ssl, sqlite3, ctypes, sys, cheese; print(sys.prefix, cheese.__version__)"
        command = ["unshare", "-m", "sh", "-c", hide, "sh", moved / "bin/python", "-c", code]
        done = subprocess.run(command, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout.split()) == (0, [str(moved), "2.0"]), done.stderr


def relocate(prefix: Path, built: BuiltPrefix, destination: str) -> None:
    """What the launcher does before it renames."""
    assert built.post_unpack_script
    command = [prefix / "bin/python", "-I", "-B", prefix / built.post_unpack_script, destination]
    subprocess.run(command, check=True, capture_output=True, text=True)


class TestExistingEnvironments:
    """What conda has installed is packed as it is."""

    @pytest.fixture
    def existing(self, channel: str, tmp_path: Path) -> Path:
        """As conda leaves it; made by rattler, which writes the same records."""
        import rattler

        prefix = tmp_path / "envs" / "tasting"

        async def make() -> None:
            specs = ["cheese=1.0", "cellar", f"python {MINOR}.*"]
            await rattler.install(await rattler.solve([channel], specs), prefix, show_progress=False)

        asyncio.run(make())
        return prefix

    def test_it_is_packed_as_it_is_and_runs_elsewhere(self, build: Build, existing: Path) -> None:
        wish = CondaEnvironment.from_prefix(existing)
        moved, built = build(environment=wish)
        existing.rename(existing.with_name("gone"))
        verify_prefix(moved, built, deadline=deadline())
        assert built.packages == {"cheese": "1.0"}
        assert [line.split()[0] for line in built.lock][:2] == ["cellar=1.0=h0_0", "cheese=1.0=py_0"]
        assert wish.python == MINOR

    def test_its_key_comes_from_what_is_installed_wherever_it_lies(self, existing: Path) -> None:
        wish = CondaEnvironment.from_prefix(existing)
        copy = Path(shutil.copytree(existing, existing.with_name("copy"), symlinks=True))
        assert CondaEnvironment.from_prefix(copy).key == wish.key
        assert Environment.from_dict(json.loads(json.dumps(wish.to_dict()))) == wish
        next(copy.glob("conda-meta/cellar-*.json")).unlink()
        assert CondaEnvironment.from_prefix(copy).key != wish.key

    def test_one_that_changed_after_it_was_described_is_refused(self, build: Build, existing: Path) -> None:
        wish = CondaEnvironment.from_prefix(existing)
        next(existing.glob("conda-meta/cellar-*.json")).unlink()
        with pytest.raises(BuildError, match="has changed since it was described"):
            build(environment=wish)

    def test_condas_files_that_pip_has_removed_are_told_with_the_remedy(self, build: Build, existing: Path) -> None:
        next(existing.glob("lib/python3.*/site-packages/cheese/__init__.py")).unlink()
        with pytest.raises(
            BuildError, match=r"packages cheese 1\.0 are gone .*cheese/__init__\.py.*ignore_missing_files"
        ):
            build(environment=CondaEnvironment.from_prefix(existing))
        moved, _ = build(environment=CondaEnvironment.from_prefix(existing, ignore_missing_files=True))
        assert (moved / "bin" / "cellar").exists()

    def test_editable_packages_are_told(self, build: Build, existing: Path) -> None:
        (info,) = existing.glob("lib/python3.*/site-packages/cheese-1.0.dist-info")
        (info / "direct_url.json").write_text('{"url": "file:///home/me", "dir_info": {"editable": true}}')
        with pytest.raises(BuildError, match="holds editable packages, whose code lies elsewhere: cheese"):
            build(environment=CondaEnvironment.from_prefix(existing))

    def test_one_whose_package_cache_was_cleaned_is_packed(self, build: Build, existing: Path) -> None:
        for path in existing.glob("conda-meta/*.json"):
            path.write_text(path.read_text().replace(os.environ["RATTLER_CACHE_DIR"], "/cleaned"))
        reports: list[tuple[str, str]] = []
        moved, built = build(environment=CondaEnvironment.from_prefix(existing), reports=reports)
        verify_prefix(moved, built, deadline=deadline())
        assert any("without entries in the package cache" in text for _, text in reports)
        relocate(moved, built, "/opt/elsewhere")
        assert (moved / "share/cellar/where.txt").read_text().startswith("data=/opt/elsewhere/")

    @pytest.mark.parametrize("variable", ["CONDA_ENVS_PATH", "MAMBA_ROOT_PREFIX", "CONDA_EXE", "CONDA_PREFIX", "HOME"])
    def test_it_is_found_by_name(self, existing: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
        envs = existing.parent
        places = {"CONDA_ENVS_PATH": envs, "CONDA_EXE": envs.parent / "bin/conda", "HOME": envs.parent}
        for name in ("CONDA_ENVS_DIRS", "CONDA_ENVS_PATH", "MAMBA_ROOT_PREFIX", "CONDA_EXE", "CONDA_PREFIX"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", "/nonexistent")
        monkeypatch.setenv(variable, str(places.get(variable, envs.parent)))
        if variable == "HOME":
            (envs.parent / ".conda").mkdir()
            (envs.parent / ".conda/environments.txt").write_text(f"/elsewhere\n{existing}\n")
        assert CondaEnvironment.from_name("tasting") == CondaEnvironment.from_prefix(existing)
        with pytest.raises(InvalidArgumentError, match="There is no conda environment 'nosuch' in"):
            CondaEnvironment.from_name("nosuch")

    def test_what_is_no_conda_environment_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidArgumentError, match="is no conda environment"):
            CondaEnvironment.from_prefix(tmp_path)
        (tmp_path / "conda-meta").mkdir()
        with pytest.raises(InvalidArgumentError, match="has no Python of conda's"):
            CondaEnvironment.from_prefix(tmp_path)


@contextlib.contextmanager
def serve(root: str, password: str) -> Iterator[tuple[str, list[str]]]:
    """A directory over http, for `me` and for bearers of a token only: its URL, and what was refused."""
    refused: list[str] = []
    basic = base64.b64encode(f"me:{password}".encode()).decode()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=root)

        def send_head(self) -> Any:
            token = f"/t/{password}"
            if self.path.startswith(token):
                self.path = self.path.removeprefix(token)
            elif self.headers.get("Authorization") not in (f"Basic {basic}", f"Bearer {password}"):
                refused.append(self.path)
                self.send_error(401)
                return None
            self.path = self.path.removeprefix("/private")
            return super().send_head()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/private", refused
        server.shutdown()


class TestPrivateChannels:
    """A channel behind a login, on this machine."""

    PASSWORD = "hunter2-and-more"

    @pytest.fixture
    def private(self, channel: str) -> Iterator[tuple[str, list[str]]]:
        """The channel's URL, and what was asked without the right credentials."""
        with serve(channel.removeprefix("file://"), self.PASSWORD) as found:
            yield found

    @pytest.mark.parametrize("username", ["me", "", CONDA_TOKEN])
    def test_a_login_opens_it_and_is_nowhere_in_what_is_made(
        self, private: tuple[str, list[str]], tmp_path: Path, username: str
    ) -> None:
        url, _ = private
        wish = CondaEnvironment(["cheese"], channels=[url], channel_conn_ids=["ours"])
        login = Login(url, username, self.PASSWORD)
        said: list[str] = []
        store = ArchiveStore(tmp_path / "store")
        archive = store.build(wish, timeout=60, progress=said.append, logins={"ours": login})
        assert archive.packages == {"cheese": "2.0"}
        told = json.dumps(archive.to_dict()) + "\n".join(said) + repr(wish)
        unpacked = tmp_path / "unpacked"
        unpacked.mkdir()
        subprocess.run(["tar", "-xzf", store.fetch(archive), "-C", unpacked], check=True)
        content = b"".join(path.read_bytes() for path in unpacked.glob("conda-meta/*"))
        assert self.PASSWORD not in told
        assert self.PASSWORD.encode() not in content

    def test_without_it_the_refusal_is_told(self, private: tuple[str, list[str]], build: Build) -> None:
        with pytest.raises(BuildError, match="401"):
            build("cheese", channels=[private[0]])

    def test_a_wrong_login_is_not_repeated(self, private: tuple[str, list[str]], build: Build) -> None:
        for username in ("me", "", CONDA_TOKEN):
            logins = {"ours": Login(private[0], username, "wrong-secret")}
            with pytest.raises(BuildError, match="401") as caught:
                build("cheese", channels=[private[0]], channel_conn_ids=["ours"], logins=logins)
            assert "wrong-secret" not in str(caught.value)

    @pytest.mark.parametrize("ends_by", ["timeout", "interrupt"])
    def test_a_build_that_is_ended_leaves_no_login_behind(
        self, build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends_by: str
    ) -> None:
        kept = tmp_path / "tmp"
        kept.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(kept))
        seen: list[tuple[int, str]] = []

        def look(*_: object) -> None:
            seen.extend((path.stat().st_mode & 0o777, path.read_text()) for path in kept.iterdir())
            if ends_by == "interrupt":
                raise KeyboardInterrupt

        previous = signal.signal(signal.SIGALRM, look)
        signal.setitimer(signal.ITIMER_REAL, 0.7)
        try:
            with socket.create_server(("127.0.0.1", 0)) as silent:
                url = f"http://127.0.0.1:{silent.getsockname()[1]}/channel"
                logins = {"ours": Login(url, "me", self.PASSWORD)}
                with pytest.raises((BuildError, KeyboardInterrupt)):
                    build("cheese", channels=[url], channel_conn_ids=["ours"], logins=logins, timeout=1.5)
        finally:
            signal.signal(signal.SIGALRM, previous)
        ((mode, content),) = seen
        assert mode == 0o600
        assert self.PASSWORD in content
        assert not list(kept.iterdir())

    def test_a_private_index_opens_for_pip(self, build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        index = tmp_path / "index" / "rules"
        index.mkdir(parents=True)
        with zipfile.ZipFile(index / "rules-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr("rules.py", "answer = 42")
            wheel.writestr("rules-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: rules\nVersion: 1.0\n")
            wheel.writestr(
                "rules-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            wheel.writestr("rules-1.0.dist-info/RECORD", "")
        (index / "index.html").write_text('<a href="rules-1.0-py3-none-any.whl">rules-1.0-py3-none-any.whl</a>')
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
        with serve(str(index.parent), self.PASSWORD) as (url, _):
            reports: list[tuple[str, str]] = []
            logins = {"pypi": Login(url, "me", self.PASSWORD)}
            moved, built = build("cheese", pip=["rules"], index_conn_id="pypi", logins=logins, reports=reports)
            assert built.packages == {"cheese": "2.0", "rules": "1.0"}
            assert self.PASSWORD not in f"{reports}{built}"
            strangers = [
                path for path in moved.rglob("*") if path.is_file() and self.PASSWORD.encode() in path.read_bytes()
            ]
            assert strangers == []
            wrong = {"pypi": Login(url, "me", "wrong-secret")}
            monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "empty"))
            with pytest.raises(BuildError, match="uv could not resolve") as caught:
                build("cheese", pip=["rules"], index_conn_id="pypi", logins=wrong)
            assert "wrong-secret" not in str(caught.value)

    def test_two_logins_for_one_host_are_refused(self, build: Build) -> None:
        logins = {name: Login(ANY, "me", name) for name in ("one", "two")}
        with pytest.raises(BuildError, match=r"two different logins for example\.com") as caught:
            build("cheese", channel_conn_ids=["one", "two"], logins=logins)
        assert "None" not in str(caught.value)

    def test_a_channel_that_never_answers_is_given_up(self, build: Build) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            start = time.monotonic()
            with pytest.raises(
                BuildError, match=r"was stopped after its timeout of 1\.5 s\. It was reading the channels and solving"
            ):
                build("cheese", channels=[f"http://127.0.0.1:{silent.getsockname()[1]}/channel"], timeout=1.5)
            assert time.monotonic() - start < 5


class TestOnExecutors:
    """The real thing."""

    def test_a_udf_runs_in_it_and_its_files_name_the_executors_directory(
        self, channel: str, server: EmbeddedServer, tmp_path: Path
    ) -> None:
        store = ArchiveStore(tmp_path / "store")
        archive = store.build(CondaEnvironment(["cheese=1.0", "cellar"], channels=[channel]), timeout=60)

        with Session(Endpoint(host=server.host, port=server.port)) as session:
            assert attach(session.spark, archive, payload=store.fetch(archive))

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

    def test_pandas_udfs_run_in_it_with_what_pip_adds(
        self, channel: str, server: EmbeddedServer, tmp_path: Path
    ) -> None:
        store = ArchiveStore(tmp_path / "store")
        wish = CondaEnvironment(["cheese"], channels=[channel], pip=["pandas<3", "pyarrow"])
        archive = store.build(wish, timeout=120)
        with Session(Endpoint(host=server.host, port=server.port)) as session:
            attach(session.spark, archive, payload=store.fetch(archive))

            @pandas_udf("string")
            def taste(ids: pd.Series) -> pd.Series:
                import cheese

                return ids.map(lambda _: f"{sys.prefix} {cheese.__version__}")

            rows = session.spark.range(2, numPartitions=2).select(taste("id")).collect()
        homes = [path / "sparkdeps" / archive.short_digest for path in (server.work_dir / "spark/work").glob("app-*/*")]
        assert {row[0] for row in rows} <= {f"{home} 2.0" for home in homes}

    def test_a_directory_too_long_for_binaries_is_told_by_the_launcher_and_nothing_remains(
        self, channel: str, tmp_path: Path
    ) -> None:
        store = ArchiveStore(tmp_path / "store")
        archive = store.build(CondaEnvironment(["cellar"], channels=[channel]), timeout=60)

        def launch(executor: Path) -> subprocess.CompletedProcess[str]:
            session = executor / "session"
            session.mkdir(parents=True)
            shutil.copy(store.fetch(archive), session)
            subprocess.run(["tar", "-xzf", "-", "-C", session], input=launcher_archive(archive), check=True)
            code = "import sys; print(open(sys.prefix + '/share/cellar/where.txt').readline())"
            command = [session / "bin/python", "-c", code]
            return subprocess.run(command, cwd=session, capture_output=True, text=True, check=False)

        short = launch(tmp_path / "short")
        home = tmp_path / "short/sparkdeps" / archive.short_digest
        assert short.stdout.strip() == f"data={home}/share/cellar", short.stderr
        long = tmp_path / ("x" * 130) / ("y" * 130)
        told = launch(long)
        assert told.returncode == 1
        assert "can't be made ready for" in told.stderr
        assert "is longer than the 255 characters that there is room for" in told.stderr
        assert sorted(path.suffix for path in (long / "sparkdeps").iterdir()) == [".lock", ".used"]


def test_manifests_of_before_say_that_nothing_is_to_be_done_after_unpacking(channel: str, tmp_path: Path) -> None:
    archive = ArchiveStore(tmp_path).build(CondaEnvironment(["cheese"], channels=[channel]), timeout=60)
    assert archive.post_unpack_script
    data = archive.to_dict()
    assert Archive.from_dict(data) == archive
    del data["post_unpack_script"]
    assert Archive.from_dict(data).post_unpack_script is None
    with pytest.raises(ArchiveError, match="invalid post_unpack_script"):
        Archive.from_dict({**data, "post_unpack_script": "../../bin/sh"})

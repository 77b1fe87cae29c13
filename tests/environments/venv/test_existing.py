"""Building what files, local projects, private indexes and virtualenvs say: with real uv and real packages."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.environments import Login, PexEnvironment, VenvEnvironment
from airflow_provider_sparkdeps.environments.prefix.verify import verify_prefix
from airflow_provider_sparkdeps.environments.uv import uv_binary
from airflow_provider_sparkdeps.exceptions import BuildError, InvalidArgumentError
from airflow_provider_sparkdeps.utils.deadline import Deadline

from ...support.build_contexts import build, make_context
from ...support.package_index import PASSWORD, Index, make_wheel, serve

OWN = f"{sys.version_info[0]}.{sys.version_info[1]}"
SIX_HASH = "sha256:4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def library(
    root: Path, *, name: str = "my-lib", more: str = "", answer: int = 42, backend: str = "hatchling.build"
) -> Path:
    module = name.replace("-", "_")
    write(
        root / "pyproject.toml",
        f'[project]\nname = "{name}"\nversion = "1.0"\n{more}\n'
        f'[build-system]\nrequires = ["{backend.split(".")[0]}"]\nbuild-backend = "{backend}"\n',
    )
    write(root / "src" / module / "__init__.py", f"ANSWER = {answer}\n")
    return root


def contents(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def ask(prefix: Path, code: str) -> str:
    command = [prefix / "bin" / "python", "-I", "-B", "-c", code]
    done = subprocess.run(command, env={}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class TestFiles:
    def test_constraints_hold_without_installing_anything(self, tmp_path: Path) -> None:
        write(tmp_path / "requirements.txt", "-c limits.txt\nsix; python_version > '3'\ntoolz; python_version < '3'")
        write(tmp_path / "limits.txt", "six==1.16.0\ntabulate==0.9.0\n")
        environment = VenvEnvironment.from_file(tmp_path / "requirements.txt", bundle_python=False)
        assert build(environment, tmp_path / "prefix").lock == ("six==1.16.0",)

    def test_hashes_are_kept_in_the_lock_and_must_match(self, tmp_path: Path) -> None:
        path = write(tmp_path / "requirements.txt", f"six==1.17.0 --hash={SIX_HASH}\n")
        environment = VenvEnvironment.from_file(path, bundle_python=False)
        assert build(environment, tmp_path / "prefix").lock == (f"six==1.17.0 --hash={SIX_HASH}",)
        write(path, f"six==1.17.0 --hash=sha256:{'0' * 64}\n")
        with pytest.raises(BuildError, match=r"[Hh]ash mismatch"):
            build(environment, tmp_path / "other")

    def test_with_one_hash_all_packages_need_one(self, tmp_path: Path) -> None:
        path = write(tmp_path / "requirements.txt", f"six==1.17.0 --hash={SIX_HASH}\ntabulate\n")
        with pytest.raises(BuildError, match="tabulate"):
            build(VenvEnvironment.from_file(path, bundle_python=False), tmp_path / "prefix")

    def test_a_uv_lock_is_installed_as_it_is_locked(self, tmp_path: Path) -> None:
        project = tmp_path / "app"
        library(project / "libs" / "my_lib")
        write(
            project / "pyproject.toml",
            '[project]\nname = "app"\nversion = "1"\nrequires-python = ">=3.11"\n'
            'dependencies = ["six<1.17", "my-lib", "toolz; python_version < \'3.11\'"]\n'
            '[project.optional-dependencies]\nfast = ["markupsafe==3.0.2"]\n'
            '[dependency-groups]\ndev = ["tabulate==0.9.0"]\n'
            '[tool.uv.sources]\nmy-lib = { path = "libs/my_lib", editable = true }\n',
        )
        subprocess.run([uv_binary(), "lock", "--quiet", "--python", sys.executable], cwd=project, check=True)
        # What the lock says counts, not what would be resolved today.
        lock = project / "uv.lock"
        assert 'version = "1.16.0"' in lock.read_text()
        before = contents(project)
        environment = VenvEnvironment.from_file(project / "pyproject.toml", extras=["fast"], bundle_python=False)
        built = build(environment, tmp_path / "prefix")
        assert built.packages == {"markupsafe": "3.0.2", "my-lib": "1.0", "six": "1.16.0"}
        assert [line.split(" ")[0] for line in built.lock] == ["markupsafe==3.0.2", "my-lib==1.0", "six==1.16.0"]
        assert contents(project) == before, "the project was written to"
        assert str(tmp_path) not in "".join(built.lock)
        grouped = VenvEnvironment.from_file(lock, groups=["dev"], bundle_python=False)
        resolved = grouped.resolve_lock(make_context())
        assert "tabulate==0.9.0" in resolved

    def test_a_pylock_is_installed_for_this_python_only(self, tmp_path: Path) -> None:
        wheel = make_wheel(tmp_path / "wheels", "by-path", "1.0")
        wheel_lines = f'wheels = [{{ path = "wheels/{wheel.name}", hashes = {{ sha256 = "{"0" * 64}" }} }}]\n'
        pylock = tmp_path / "pylock.toml"
        write(tmp_path / "in.txt", "six==1.16.0\ntoolz\n")
        command = ["pip", "compile", "--quiet", "--format", "pylock.toml", "-o", pylock, "in.txt"]
        subprocess.run([uv_binary(), *command, "--python", sys.executable], cwd=tmp_path, check=True)
        text = pylock.read_text().replace('name = "toolz"', 'name = "toolz"\nmarker = "\'fast\' in extras"')
        head, _, rest = text.partition("\n\n[[packages]]")
        text = f'{head}\nextras = ["fast"]\n\n[[packages]]{rest}'
        write(pylock, f'{text}\n[[packages]]\nname = "by-path"\nversion = "1.0"\n{wheel_lines}')
        plain = VenvEnvironment.from_file(pylock, bundle_python=False)
        built = build(plain, tmp_path / "prefix")
        assert built.packages == {"by-path": "1.0", "six": "1.16.0"}
        assert built.lock == (f"by-path==1.0 (sha256 {hashlib.sha256(wheel.read_bytes()).hexdigest()})", "six==1.16.0")
        fast = VenvEnvironment.from_file(pylock, extras=["fast"], bundle_python=False)
        assert build(fast, tmp_path / "fast").packages.keys() == {"by-path", "six", "toolz"}


class TestLocalProjects:
    def test_projects_and_wheels_are_installed_by_copy_with_what_they_need(self, tmp_path: Path) -> None:
        # setuptools leaves its traces next to what it builds.
        library(tmp_path / "my_lib", more='dependencies = ["six==1.16.0"]', backend="setuptools.build_meta")
        wheel = make_wheel(tmp_path / "dist", "by-path", "2.0", requires=("tabulate==0.9.0",))
        before = contents(tmp_path)
        environment = VenvEnvironment(["-e ./my_lib", f"./dist/{wheel.name}"], base_dir=tmp_path)
        built = build(environment, tmp_path / "prefix")
        after = {name: digest for name, digest in contents(tmp_path).items() if not name.startswith("prefix/")}
        assert after == before, "something was written next to the sources"
        shutil.rmtree(tmp_path / "my_lib")
        verify_prefix((tmp_path / "prefix").rename(tmp_path / "moved"), built, deadline=Deadline(30, "Checking"))
        code = "import my_lib, by_path, six, tabulate; print(my_lib.ANSWER, by_path.VERSION)"
        assert ask(tmp_path / "moved", code) == "42 2.0"
        assert [line.split(" ")[0] for line in built.lock] == [
            "by-path==2.0", "my-lib==1.0", "six==1.16.0", "tabulate==0.9.0",
        ]  # fmt: skip

    def test_builds_in_other_places_are_equal_byte_by_byte(self, tmp_path: Path) -> None:
        found = []
        for place in ("one", "else/where"):
            root = tmp_path / place
            library(root / "my_lib")
            wheel = make_wheel(root, "by-path", "2.0")
            environment = VenvEnvironment(["./my_lib", f"./{wheel.name}"], base_dir=root, bundle_python=False)
            built = build(environment, root / "prefix")
            found.append((environment.key, built.lock, contents(root / "prefix")))
        # The wheel's own digest depends on when its zip was written; the rest does not.
        assert found[0][2] == found[1][2]
        assert found[0][1][1] == found[1][1][1]

    def test_a_project_whose_build_fails_is_named_with_the_backends_words(self, tmp_path: Path) -> None:
        library(tmp_path / "my_lib", more='dependencies = ["not => valid"]')
        with pytest.raises(BuildError, match=r"uv could not build a wheel of my_lib\. Its output:"):
            build(VenvEnvironment(["./my_lib"], base_dir=tmp_path), tmp_path / "prefix")


class TestPrivateIndexes:
    def test_packages_of_both_indexes_are_installed_and_the_private_one_comes_first(
        self, index: Index, tmp_path: Path
    ) -> None:
        make_wheel(tmp_path / "served", "six", "0.0.1")
        lines: list[str] = []
        environment = VenvEnvironment(["ours-only", "six", "tabulate"], index_conn_id="ours", bundle_python=False)
        login = Login(index.url, "me", PASSWORD)
        built = build(environment, tmp_path / "prefix", lines=lines, logins={"ours": login})
        assert built.packages["ours-only"] == "1.0"
        assert built.packages["six"] == "0.0.1", "a public package of a private one's name was preferred"
        assert "tabulate" in built.packages
        assert {status for path, status in index.asked if path.startswith("/files/ours")} <= {200, 401}
        everything = [*lines, repr(environment), repr(login), *built.lock, str(environment.to_dict())]
        assert not [text for text in everything if "hunter2" in text]
        found = [path for path in (tmp_path / "prefix").rglob("*") if path.is_file()]
        assert not [path for path in found if b"hunter2" in path.read_bytes()]

    def test_a_token_alone_is_a_login(self, index: Index, tmp_path: Path) -> None:
        with serve(Index(index.wheels, "__token__", "abc")) as tokened:
            environment = VenvEnvironment(["ours-only"], index_conn_id="ours", bundle_python=False)
            logins = {"ours": Login(tokened.url, password="abc")}
            assert build(environment, tmp_path / "prefix", logins=logins).packages == {"ours-only": "1.0"}

    def test_a_pex_is_made_of_a_private_indexs_packages(self, index: Index, tmp_path: Path) -> None:
        environment = PexEnvironment(["ours-only"], index_conn_id="ours")
        assert environment.conn_ids == ("ours",)
        lines: list[str] = []
        login = Login(index.url, "me", PASSWORD)
        built = build(environment, tmp_path / "prefix", lines=lines, logins={"ours": login})
        assert built.packages == {"ours-only": "1.0"}
        found = [path for path in (tmp_path / "prefix").rglob("*") if path.is_file()]
        assert not [path for path in found if b"hunter2" in path.read_bytes()]
        assert not [line for line in [*lines, str(environment.to_dict())] if "hunter2" in line]

    def test_a_refused_login_is_told_without_the_password(self, index: Index, tmp_path: Path) -> None:
        environment = VenvEnvironment(["ours-only"], index_conn_id="ours", bundle_python=False)
        wrong = Login(index.url, "me", f"{PASSWORD}-wrong")
        lines: list[str] = []
        with pytest.raises(BuildError, match=r"uv could not resolve the requirements") as caught:
            build(environment, tmp_path / "prefix", lines=lines, logins={"ours": wrong})
        assert "hunter2" not in str(caught.value) + "".join(lines)
        assert "ours-only" in str(caught.value)

    def test_what_a_build_backend_says_is_shown_without_the_password(self, index: Index, tmp_path: Path) -> None:
        library(tmp_path / "my_lib", backend="setuptools.build_meta")
        code = "import os\nraise SystemExit(f'I saw {os.environ[\"UV_INDEX_SPARKDEPS_PASSWORD\"]} here')\n"
        write(tmp_path / "my_lib" / "setup.py", code)
        environment = VenvEnvironment(["./my_lib"], base_dir=tmp_path, index_conn_id="ours")
        lines: list[str] = []
        with pytest.raises(BuildError, match=r"I saw \*\*\* here") as caught:
            build(environment, tmp_path / "prefix", lines=lines, logins={"ours": Login(index.url, "me", PASSWORD)})
        assert "hunter2" not in "".join([*lines, str(caught.value)])

    def test_no_process_shows_the_password(self, index: Index, tmp_path: Path) -> None:
        seen: set[bytes] = set()
        done = threading.Event()

        def look() -> None:
            while not done.is_set():
                for path in Path("/proc").glob("[0-9]*/cmdline"):
                    try:
                        seen.add(path.read_bytes())
                    except OSError:
                        continue
                time.sleep(0.005)

        thread = threading.Thread(target=look)
        thread.start()
        environment = VenvEnvironment(["ours-only"], index_conn_id="ours", bundle_python=False)
        build(environment, tmp_path / "prefix", logins={"ours": Login(index.url, "me", PASSWORD)})
        done.set()
        thread.join()
        assert [line for line in seen if b"compile" in line and b"uv" in line], "uv was not seen at all"
        assert not [line for line in seen if b"hunter2" in line]

    def test_a_missing_login_is_asked_for(self, tmp_path: Path) -> None:
        with pytest.raises(BuildError, match="The login of connection 'ours' was not passed"):
            build(VenvEnvironment(["six"], index_conn_id="ours"), tmp_path / "prefix")

    def test_the_connection_is_part_of_the_key(self) -> None:
        keys = {VenvEnvironment(["six"], index_conn_id=each).key for each in (None, "ours", "theirs")}
        assert len(keys) == 3


class TestVirtualenvs:
    """The blog's `venv_pack.pack()`: a virtualenv as it is."""

    @pytest.fixture(scope="class")
    @classmethod
    def made(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        root = tmp_path_factory.mktemp("made")
        venv = root / "venv"
        subprocess.run([uv_binary(), "venv", "--quiet", "--python", sys.executable, venv], check=True)
        install = [uv_binary(), "pip", "install", "--quiet", "--python", venv / "bin" / "python"]
        wheel = make_wheel(root, "by-path", "2.0")
        subprocess.run([*install, "six==1.16.0", "markupsafe", "tabulate==0.9.0", wheel], check=True)
        return venv

    @pytest.fixture
    def venv(self, made: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(made, tmp_path / "venv", symlinks=True))

    def test_it_runs_from_anywhere_with_its_packages_and_scripts(self, made: Path, tmp_path: Path) -> None:
        before = contents(made)
        environment = VenvEnvironment.from_prefix(made)
        built = build(environment, tmp_path / "prefix")
        assert contents(made) == before, "the virtualenv was written to"
        assert built.packages == {**built.packages, "by-path": "2.0", "six": "1.16.0", "tabulate": "0.9.0"}
        assert built.lock == tuple(f"{name}=={version}" for name, version in built.packages.items())
        moved = (tmp_path / "prefix").rename(tmp_path / "moved")
        verify_prefix(moved, built, deadline=Deadline(30, "Checking"))
        done = subprocess.run([moved / "bin" / "by-path"], capture_output=True, text=True, check=False)
        assert done.stdout.strip() == "2.0", done.stderr
        texts = {path: path.read_bytes() for path in moved.rglob("*") if path.is_file()}
        assert not [path for path, text in texts.items() if str(made).encode() in text]
        assert not list(moved.glob("lib/*/site-packages/*/direct_url.json"))

    def test_the_same_virtualenv_elsewhere_has_the_same_key_and_bytes(
        self, made: Path, venv: Path, tmp_path: Path
    ) -> None:
        one, other = (VenvEnvironment.from_prefix(each, bundle_python=False) for each in (made, venv))
        assert one.key == other.key
        build(one, tmp_path / "one")
        build(other, tmp_path / "other")
        assert contents(tmp_path / "one") == contents(tmp_path / "other")

    def test_what_is_in_it_is_the_key(self, venv: Path) -> None:
        environment = VenvEnvironment.from_prefix(venv)
        (site,) = venv.glob("lib/*/site-packages")
        keys = [environment.key]
        write(site / "left_here.py", "x = 1\n")
        keys.append(environment.key)
        write(site / "six.py", "# patched\n")
        keys.append(environment.key)
        shutil.rmtree(next(site.glob("tabulate-*.dist-info")))
        keys.append(environment.key)
        assert len(set(keys)) == len(keys)
        write(site / "__pycache__" / "six.cpython-311.pyc", "x")
        assert environment.key == keys[-1]

    def test_editable_projects_come_along_as_wheels(self, venv: Path, tmp_path: Path) -> None:
        project = library(tmp_path / "my_lib")
        install = [uv_binary(), "pip", "install", "--quiet", "--python", venv / "bin" / "python"]
        subprocess.run([*install, "--editable", project], check=True)
        environment = VenvEnvironment.from_prefix(venv)
        before = environment.key
        built = build(environment, tmp_path / "prefix")
        assert "my-lib" in built.packages
        assert ask(tmp_path / "prefix", "import my_lib; print(my_lib.__file__)").startswith(str(tmp_path / "prefix"))
        assert not [path for path in (tmp_path / "prefix").rglob("*.pth") if str(tmp_path) in path.read_text()]
        library(tmp_path / "my_lib", answer=43)
        assert environment.key != before
        shutil.rmtree(project)
        with pytest.raises(InvalidArgumentError, match=r"my-lib is installed editable in .* project is not in"):
            _ = environment.key

    def test_a_path_file_that_leads_out_is_refused_by_name(self, venv: Path, tmp_path: Path) -> None:
        (site,) = venv.glob("lib/*/site-packages")
        write(site / "ours.pth", f"# paths\n{tmp_path / 'code'}\n")
        with pytest.raises(InvalidArgumentError, match=rf"outside of it.*: ours\.pth to {tmp_path}/code\. Install"):
            build(VenvEnvironment.from_prefix(venv), tmp_path / "prefix")

    def test_links_into_a_cache_become_files(self, tmp_path: Path) -> None:
        venv = tmp_path / "venv"
        subprocess.run([uv_binary(), "venv", "--quiet", "--python", sys.executable, venv], check=True)
        install = [uv_binary(), "pip", "install", "--quiet", "--link-mode", "symlink", "--python", venv / "bin/python"]
        subprocess.run([*install, "six"], check=True)
        build(VenvEnvironment.from_prefix(venv, bundle_python=False), tmp_path / "prefix")
        (module,) = (tmp_path / "prefix").glob("lib/*/site-packages/six.py")
        assert not module.is_symlink()

    def test_what_is_no_virtualenv_is_refused_with_what_it_is(self, venv: Path, tmp_path: Path) -> None:
        (tmp_path / "conda" / "conda-meta").mkdir(parents=True)
        for place, says in (
            (tmp_path / "conda", r"is a conda environment\. Write CondaEnvironment\.from_prefix"),
            (tmp_path / "nowhere", r"is not a virtualenv: it has no pyvenv\.cfg"),
        ):
            with pytest.raises(InvalidArgumentError, match=says):
                _ = VenvEnvironment.from_prefix(place).key
        settings = (venv / "pyvenv.cfg").read_text().replace("site-packages = false", "site-packages = true")
        write(venv / "pyvenv.cfg", settings)
        with pytest.raises(InvalidArgumentError, match="uses packages of the system's Python"):
            _ = VenvEnvironment.from_prefix(venv).key

    def test_a_virtualenv_whose_base_is_gone_is_told(self, venv: Path, tmp_path: Path) -> None:
        (venv / "bin" / "python").unlink()
        (venv / "bin" / "python").symlink_to("/nonexistent/python")
        with pytest.raises(BuildError, match=rf"bin/python is not a working CPython {OWN}"):
            build(VenvEnvironment.from_prefix(venv), tmp_path / "prefix")


class TestOtherPlatforms:
    @property
    def other(self) -> str:
        return "linux-aarch64" if os.uname().machine != "aarch64" else "linux-x86_64"

    def test_wheels_of_another_platform_are_installed_without_an_interpreter(self, tmp_path: Path) -> None:
        library(tmp_path / "my_lib")
        environment = VenvEnvironment(
            ["markupsafe", "tabulate", "./my_lib"], platform=self.other, bundle_python=False, base_dir=tmp_path
        )
        built = build(environment, tmp_path / "prefix")
        assert built.interpreter is None
        assert built.packages.keys() == {"markupsafe", "my-lib", "tabulate"}
        (native,) = (tmp_path / "prefix").glob(f"lib/python{OWN}/site-packages/markupsafe/*.so")
        assert self.other.removeprefix("linux-") in native.name
        script = tmp_path / "prefix" / "bin" / "tabulate"
        assert script.read_bytes().startswith(b"#!/bin/sh\n'''exec' \"$(dirname")
        assert os.access(script, os.X_OK)
        assert not [path for path in (tmp_path / "prefix").rglob("*") if path.name in (".lock", "direct_url.json")]

    def test_a_lock_is_installed_for_that_platform(self, tmp_path: Path) -> None:
        text = 'lock-version = "1.0"\ncreated-by = "test"\n'
        here, there = (f"\"platform_machine == '{each}'\"" for each in (os.uname().machine, self.other[6:]))
        for name, marker in (("six", here), ("tabulate", there)):
            text += f'[[packages]]\nname = "{name}"\nversion = "1"\nmarker = {marker}\n'
        path = write(tmp_path / "pylock.toml", text)
        environment = VenvEnvironment.from_file(path, platform=self.other, bundle_python=False)
        assert environment.resolve_lock(make_context()) == ("tabulate==1",)

    def test_what_has_no_wheel_there_is_told_by_the_resolver(self, tmp_path: Path) -> None:
        environment = VenvEnvironment(["pyspark==3.5.1"], platform=self.other, bundle_python=False)
        with pytest.raises(BuildError, match="no usable wheels"):
            environment.resolve_lock(make_context())

    def test_an_interpreter_of_another_platform_cannot_be_bundled(self, tmp_path: Path) -> None:
        with pytest.raises(BuildError, match=rf"can't build for {self.other}\..*with bundle_python=False"):
            build(VenvEnvironment(["six"], platform=self.other), tmp_path / "prefix")

    def test_a_platform_that_uv_does_not_know_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(BuildError, match="uv can't select wheels for linux-vax, only for linux-x86_64"):
            build(VenvEnvironment(["six"], platform="linux-vax", bundle_python=False), tmp_path / "prefix")

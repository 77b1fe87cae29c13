"""Environments that are a PEX: made from requirements, or as somebody else made it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_sparkdeps.environments.base import BuiltPrefix, Environment, Login, Report, current_platform
from airflow_provider_sparkdeps.exceptions import BuildError, InvalidArgumentError

if TYPE_CHECKING:
    from airflow_provider_sparkdeps.utils.deadline import Deadline


@dataclass(frozen=True)
class PexEnvironment(Environment):
    """A PEX that executors run as their interpreter, on a `pythonX.Y` that they have on PATH.

    .. code-block:: python

        scoring = PexEnvironment(requirements=["scikit-learn==1.7.*", "pandas<3", "pyarrow"])
        as_it_is = PexEnvironment.from_file("/shared/app.pex")

    It is smaller than a `VenvEnvironment` by the interpreter, which it needs on the executors instead. In a UDF,
    `sys.executable` is that Python, without the PEX: packages that start Python processes of their own want a venv.

    :param requirements: PEP 508 strings; order, white space and comments make no difference. UDFs need pyarrow
        (and pandas) in it wherever they use them, but not pyspark, which Spark's workers bring.
    :param file: of a PEX that exists; see `from_file`.
    :param index_conn_id: Airflow connection of a private index, which is asked before all others.
    :param python: minor version such as "3.12"; by default the worker's own, with which UDFs are pickled.
    :param platform: what it is built for; by default this machine's.
    :raises InvalidArgumentError: when a value can't be meant as written.
    """

    requirements: Sequence[str] = ()
    file: str | None = field(default=None, kw_only=True)
    index_conn_id: str | None = field(default=None, kw_only=True)

    kind: ClassVar[str] = "pex"

    def __post_init__(self) -> None:
        from airflow_provider_sparkdeps.environments.requirements.pep508 import normalize_requirements

        super().__post_init__()
        if self.file is None:
            object.__setattr__(self, "requirements", normalize_requirements(self.requirements, paths=False))
            return
        if self.requirements:
            raise InvalidArgumentError(
                f"file={self.file!r} and requirements exclude each other: a PEX that exists is taken as it is."
                " Leave one of them out."
            )
        if not isinstance(self.file, str | os.PathLike) or not os.fspath(self.file):
            raise InvalidArgumentError(f'file={self.file!r} is not a path. Name a PEX, such as "/shared/app.pex".')
        object.__setattr__(self, "requirements", ())
        object.__setattr__(self, "file", os.path.abspath(self.file))  # noqa: PTH100 - no I/O but for the cwd

    @staticmethod
    def from_file(path: str | os.PathLike[str], *, python: str | None = None) -> PexEnvironment:
        """Return the environment that is a PEX file which exists, such as `pex -o app.pex pandas pyarrow` made.

        Its key is that of its contents, which are read when the key is first asked for. A scie, which is a PEX with
        an interpreter of its own (`pex --scie eager`), needs no Python on the executors.

        :param path: of the file: a zipapp, which is what `pex -o` makes by default, or a scie.
        :param python: minor version that is to run it; by default the worker's own, with which UDFs are pickled.
        :raises InvalidArgumentError: when a value can't be meant as written.
        """
        return PexEnvironment(file=os.fspath(path), python=python)

    @property
    def title(self) -> str:
        """A few words for logs, such as "pex of pandas<3, pyarrow (Python 3.12)"."""
        if self.file is not None:
            return f"pex {Path(self.file).name} (Python {self.python_minor})"
        named = ", ".join(self.requirements)
        short = named if len(named) <= 80 else f"{named[:77]}..."
        return f"pex of {short} (Python {self.python_minor})"

    def inputs(self) -> dict[str, Any]:
        """Return what is to be installed, as plain data.

        :raises InvalidArgumentError: when the file can't be read.
        """
        return self.options() if self.file is None else {"sha256": self._sha256}

    def options(self) -> dict[str, Any]:
        """Return the arguments that make an equal environment, as plain data."""
        if self.file is not None:
            return {"file": self.file}
        index = {"index_conn_id": self.index_conn_id} if self.index_conn_id else {}
        return {"requirements": list(self.requirements), **index}

    @property
    def connections(self) -> tuple[str, ...]:
        """The id of the private index's connection, if there is one."""
        return (self.index_conn_id,) if self.index_conn_id else ()

    @cached_property
    def _sha256(self) -> str:
        from airflow_provider_sparkdeps.environments.pex.pex_info import sha256

        return sha256(Path(self.file or ""))

    def build(self, prefix: Path, *, report: Report, timeout: float, logins: Mapping[str, Login]) -> BuiltPrefix:
        """Make the PEX, or take it apart, and put an interpreter next to it that runs it.

        :param prefix: a directory that doesn't exist yet.
        :param report: told about each phase and its progress.
        :param timeout: seconds until the build is given up.
        :param logins: by connection id, for each of `connections`.
        :raises BuildError: with the words of uv or pex.
        :raises InvalidArgumentError: when the file is no PEX, or not for this Python.
        """
        from airflow_provider_sparkdeps.utils.deadline import Deadline

        if self.platform != current_platform():
            raise BuildError(
                f"This machine is {current_platform()} and can't build for {self.platform}."
                " Build on a worker of that platform, or leave platform out."
            )
        deadline = Deadline(timeout, f"Building {self.title}")
        if self.file is not None:
            return self._take(prefix, report=report, deadline=deadline)
        login = logins[self.index_conn_id] if self.index_conn_id else None
        return self._make(prefix, report=report, deadline=deadline, login=login)

    def _make(self, prefix: Path, *, report: Report, deadline: Deadline, login: Login | None) -> BuiltPrefix:
        import contextlib
        import tempfile

        from airflow_provider_sparkdeps.environments.pex import pex_info
        from airflow_provider_sparkdeps.environments.prefix import site_packages
        from airflow_provider_sparkdeps.environments.pythons import find_python
        from airflow_provider_sparkdeps.environments.uv import Uv, uv_binary

        pex_info.require_pex()
        base = find_python(self.python_minor, uv=uv_binary(), deadline=deadline)
        phase = "resolve"
        with contextlib.ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pex-", dir=prefix.parent)))
            venv, target = scratch / "venv", prefix / pex_info.PEX
            make_pex = stack.enter_context(pex_info.making_pex(venv, target, scratch=scratch, deadline=deadline))
            uv = Uv(scratch, deadline=deadline, on_line=lambda line: report(phase, line), login=login)
            report(phase, f"{self.title}, on {base.executable}")
            lock = uv.resolve(self.requirements, python=base.executable)
            if not lock:
                raise BuildError(
                    f"None of {', '.join(self.requirements)} applies to Python {base.minor} on {self.platform}:"
                    " their markers rule it out."
                )
            phase = "install"
            report(phase, f"packages: {len(lock)}")
            uv.install(lock, prefix=venv, python=base.executable)
            packages = site_packages.installed(venv)
            phase = "relocate"
            report(phase, f"packages: {len(packages)}, from a venv into a PEX")
            prefix.mkdir()
            make_pex()
        pex_info.add_interpreter(prefix, name="this PEX", minor=base.minor, scie=False)
        return BuiltPrefix(
            python=base.version,
            interpreter=pex_info.INTERPRETER,
            packages=packages,
            lock=lock,
            host_path=str(base.executable.parent),
        )

    def _take(self, prefix: Path, *, report: Report, deadline: Deadline) -> BuiltPrefix:
        from airflow_provider_sparkdeps.environments.pex import pex_info
        from airflow_provider_sparkdeps.environments.prefix import verify
        from airflow_provider_sparkdeps.environments.pythons import find_python
        from airflow_provider_sparkdeps.environments.uv import uv_binary

        file = Path(self.file or "")
        report("install", f"{file}, as it is")
        if pex_info.sha256(file) != self._sha256:
            raise BuildError(f"{file} was changed since its key was taken. Build again, with a new PexEnvironment.")
        info = pex_info.read_info(file)
        if obstacle := info.obstacle(self.python_minor):
            raise InvalidArgumentError(
                f"{file.name} is for Python {info.pythons} ({obstacle}), and Python {self.python_minor} is asked for,"
                f" with which UDFs are pickled. Build it with `pex --python python{self.python_minor}`, or run the task"
                " on a Python that it is for, and say so with python=..."
            )
        prefix.mkdir()
        if info.scie:
            pex_info.take_scie(file, prefix / pex_info.PEX)
            host_path = "/nonexistent"
        else:
            pex_info.unpack(file, prefix / pex_info.PEX, deadline=deadline)
            base = find_python(self.python_minor, uv=uv_binary(), deadline=deadline)
            host_path = str(base.executable.parent)
        pex_info.add_interpreter(prefix, name=file.name, minor=self.python_minor, scie=info.scie)
        # Of a scie that doesn't show what is in it, all that its Python finds is what is in it.
        names = info.packages or None
        report("relocate", "asking the PEX what it runs on, and with which packages")
        found = verify.ask(prefix, pex_info.INTERPRETER, names=names, host_path=host_path, deadline=deadline)
        python = found["python"]
        if not python.startswith(f"{self.python_minor}."):
            raise InvalidArgumentError(
                f"{file.name} brings Python {python}, and Python {self.python_minor} is asked for, with which UDFs are"
                f" pickled. Build it with --scie-python-version {self.python_minor}, or run the task on that Python and"
                " say so with python=..."
            )
        packages = {name: version for name, version in sorted(found["packages"].items()) if version is not None}
        return BuiltPrefix(
            python=python,
            interpreter=pex_info.INTERPRETER,
            packages=packages,
            lock=tuple(f"{name}=={version}" for name, version in packages.items()),
            host_path=host_path,
        )

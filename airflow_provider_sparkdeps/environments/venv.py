"""Environments that uv resolves and installs from a package index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from airflow_provider_sparkdeps.environments.base import BuiltPrefix, Environment, Login, Report, this_platform
from airflow_provider_sparkdeps.errors import BuildError


@dataclass(frozen=True)
class VenvEnvironment(Environment):
    """Packages from a Python index, with an interpreter, in a prefix that runs where no Python is installed.

    .. code-block:: python

        scoring = VenvEnvironment(requirements=["scikit-learn==1.7.*", "pandas<3", "pyarrow"])

    :param requirements: PEP 508 strings; order, white space and comments make no difference. UDFs need pyarrow
        (and pandas) in it wherever they use them, but not pyspark, which Spark's workers bring.
    :param bundle_python: False leaves the interpreter out, for executors that have the same `pythonX.Y` on PATH.
    :param python: minor version such as "3.12"; by default the worker's own, with which UDFs are pickled.
    :param platform: what it is built for; by default this machine's.
    :raises WishError: when a value can't be meant as written.
    """

    requirements: Sequence[str] = ()
    bundle_python: bool = field(default=True, kw_only=True)

    kind: ClassVar[str] = "venv"

    def __post_init__(self) -> None:
        from airflow_provider_sparkdeps.environments.requirements import normalise

        super().__post_init__()
        object.__setattr__(self, "requirements", normalise(self.requirements))

    @property
    def title(self) -> str:
        """A few words for logs, such as "venv of pandas<3, pyarrow (Python 3.12)"."""
        named = ", ".join(self.requirements)
        short = named if len(named) <= 80 else f"{named[:77]}..."
        return f"venv of {short} (Python {self.python_minor})"

    def inputs(self) -> dict[str, Any]:
        """Return what is to be installed, as plain data."""
        return self.options()

    def options(self) -> dict[str, Any]:
        """Return the arguments that make an equal environment, as plain data."""
        return {"requirements": list(self.requirements), "bundle_python": self.bundle_python}

    def build(self, prefix: Path, *, report: Report, timeout: float, logins: Mapping[str, Login]) -> BuiltPrefix:
        """Resolve, install and make relocatable.

        :param prefix: a directory that doesn't exist yet.
        :param report: told about each phase and its progress.
        :param timeout: seconds until the build is given up.
        :param logins: by connection id, for each of `connections`.
        :raises BuildError: with uv's own words.
        """
        import tempfile

        from airflow_provider_sparkdeps.environments import interpreter, site_packages
        from airflow_provider_sparkdeps.environments.process import Deadline
        from airflow_provider_sparkdeps.environments.pythons import find_python
        from airflow_provider_sparkdeps.environments.uv import Uv, uv_binary

        if self.platform != this_platform():
            raise BuildError(
                f"This machine is {this_platform()} and can't build for {self.platform}."
                " Build on a worker of that platform, or leave platform out."
            )
        deadline = Deadline(timeout, f"Building {self.title}")
        base = find_python(self.python_minor, uv=uv_binary(), deadline=deadline)
        phase = "resolve"
        with tempfile.TemporaryDirectory(prefix="uv-", dir=prefix.parent) as scratch:
            uv = Uv(Path(scratch), deadline=deadline, on_line=lambda line: report(phase, line))
            report(phase, f"{self.title}, on {base.executable}")
            lock = uv.resolve(self.requirements, python=base.executable)
            if not lock:
                raise BuildError(
                    f"None of {', '.join(self.requirements)} applies to Python {base.minor} on {self.platform}:"
                    " their markers rule it out."
                )
            phase = "install"
            report(phase, f"packages: {len(lock)}")
            uv.install(lock, prefix=prefix, python=base.executable)
        interpreter.strip_venv(prefix)
        bundled = None
        if self.bundle_python:
            report("relocate", f"Python {base.version} of {base.prefix}")
            bundled = interpreter.bundle_interpreter(prefix, base)
        packages = site_packages.installed(prefix)
        return BuiltPrefix(python=base.version, interpreter=bundled, packages=packages, lock=lock)

"""The steps of using an existing PEX: unpack it, and run it to see its Python and packages."""

from __future__ import annotations

import shutil
import stat
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from airflow_provider_sparkdeps.environments.context import BuildContext, Builder, BuiltPrefix
from airflow_provider_sparkdeps.environments.pex.build import INTERPRETER, PEX, add_interpreter
from airflow_provider_sparkdeps.environments.pex.pex_info import PexInfo, read_info
from airflow_provider_sparkdeps.environments.prefix import verify
from airflow_provider_sparkdeps.environments.pythons import find_python
from airflow_provider_sparkdeps.environments.uv import uv_binary
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError
from airflow_provider_sparkdeps.utils.deadline import Deadline


@dataclass(eq=False)
class ExistingPexBuilder(Builder):
    """Uses an existing PEX.

    :param file: a zipapp or a scie.
    :param minor: version of the Python that must be able to run it.
    :param scratch: a directory for intermediate files.
    :param context: of the build.
    """

    file: Path
    minor: str
    scratch: Path
    context: BuildContext

    @cached_property
    def info(self) -> PexInfo:
        """The metadata of the PEX."""
        info = read_info(self.file)
        if reason := info.incompatibility(self.minor):
            raise InvalidArgumentError(
                f"{self.file.name} is for Python {info.pythons} ({reason}), but Python {self.minor} pickles the UDFs."
                f" Build it with `pex --python python{self.minor}`, or run the task on a Python that it is for, and set"
                " python=... accordingly."
            )
        return info

    @cached_property
    def host_path(self) -> str:
        """The PATH with the Python that runs it."""
        if self.info.scie:
            return "/nonexistent"
        python = find_python(self.minor, uv=uv_binary(), deadline=self.context.deadline)
        return str(python.executable.parent)

    @cached_property
    def lock(self) -> tuple[str, ...]:
        """The packages in the PEX, which has to be unpacked and run to see them."""
        prefix = self.scratch / "prefix"
        self.install(prefix)
        return self.relocate(prefix).lock

    def install(self, prefix: Path) -> None:
        """Unpack the PEX, or copy the scie."""
        self.context.report("install", f"{self.file}, as it is")
        target = prefix / PEX
        info = self.info
        prefix.mkdir()
        if info.scie:
            shutil.copyfile(self.file, target)
            target.chmod(0o755)
        else:
            unpack(self.file, target, deadline=self.context.deadline)

    def relocate(self, prefix: Path) -> BuiltPrefix:
        """Add the script that runs the PEX as an interpreter, and run it."""
        add_interpreter(prefix, name=self.file.name, minor=self.minor, scie=self.info.scie)
        self.context.report("relocate", "running the PEX to find its Python and packages")
        # If a scie's metadata can't be read, its packages are all that its Python finds.
        found: dict[str, Any] = verify.query_interpreter(
            prefix,
            INTERPRETER,
            names=self.info.packages or None,
            host_path=self.host_path,
            deadline=self.context.deadline,
        )
        python = found["python"]
        if not python.startswith(f"{self.minor}."):
            raise InvalidArgumentError(
                f"{self.file.name} contains Python {python}, but Python {self.minor} pickles the UDFs. Build it with"
                f" --scie-python-version {self.minor}, or run the task on that Python, and set python=... accordingly."
            )
        packages = {name: version for name, version in sorted(found["packages"].items()) if version is not None}
        return BuiltPrefix(
            python=python,
            interpreter=INTERPRETER,
            packages=packages,
            lock=tuple(f"{name}=={version}" for name, version in packages.items()),
            host_path=self.host_path,
        )


def unpack(path: Path, target: Path, *, deadline: Deadline) -> None:
    """Unpack a zipapp into a directory, which is what pex calls the loose layout.

    Otherwise executors would unpack it again, and each Python process would read the directory of the zip file.
    """
    links: dict[Path, str] = {}
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            deadline.left(f"unpacking {path.name}")
            placed = Path(archive.extract(entry, target))
            mode = entry.external_attr >> 16
            if stat.S_ISLNK(mode):
                links[placed] = placed.read_text()
            elif not entry.is_dir() and mode & stat.S_IXUSR:
                placed.chmod(0o755)
    # At the end, so that nothing is written through them.
    for placed, link in links.items():
        placed.unlink()
        placed.symlink_to(link)

"""Environments that are a PEX: built from requirements, or an existing file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from airflow_provider_sparkdeps.environments.context import BuildContext, Builder
from airflow_provider_sparkdeps.environments.uv_environment import (
    UvEnvironment,
    check_lock_name,
    check_script_name,
)


@dataclass(frozen=True)
class PexEnvironment(UvEnvironment):
    """A PEX that executors run as their interpreter, on a `pythonX.Y` that they have on PATH.

    .. code-block:: python

        scoring = PexEnvironment(["scikit-learn==1.7.*", "pandas<3", "pyarrow"])
        existing = PexEnvironment.from_pex("/shared/app.pex")

    It is smaller than a `VenvEnvironment` because it has no interpreter; executors need one instead. In a UDF,
    `sys.executable` is that Python, without the PEX. Use a `VenvEnvironment` for packages that start Python processes.

    :param requirements: PEP 508 strings, and paths of projects and wheels such as "./my_lib". Order, whitespace and
        comments make no difference. UDFs that use Arrow need pyarrow (and pandas) here, but not pyspark, which Spark's
        workers provide.
    :param file: instead of requirements: a file of them, see `from_file` and `from_lock`.
    :param extras: of the project or lock in the file.
    :param groups: dependency groups of the project or lock in the file.
    :param pex: instead of requirements: an existing PEX, see `from_pex`.
    :param index_conn_id: Airflow connection of a private package index, which takes precedence over all others.
    :param base_dir: directory that relative paths start from. By default that of the file that creates the environment
        (the DAG file), or the working directory in a notebook.
    :param python: minor version such as "3.12"; by default the worker's, which pickles the UDFs.
    :param platform: must be this machine's, which is the default.
    :param glibc: the oldest C library that executors have, such as "2.28". Not checked by default.
    :raises InvalidArgumentError: if an argument is invalid. Files are read later, by `key` and `build`.
    """

    pex: str | os.PathLike[str] | None = field(default=None, kw_only=True)

    kind: ClassVar[str] = "pex"
    _existing: ClassVar[str] = "pex"

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        extras: Sequence[str] = (),
        groups: Sequence[str] = (),
        index_conn_id: str | None = None,
        base_dir: str | os.PathLike[str] | None = None,
        python: str | None = None,
        glibc: str | None = None,
    ) -> PexEnvironment:
        """Return a PEX of what a file describes. The file is read when the key is asked for, and by the build.

        :param path: of a requirements.txt (with the files that it includes) or a pyproject.toml. If there is a uv.lock
            next to the pyproject.toml, its versions are installed. The project itself is not. Lock files as in
            `from_lock` are accepted, too.
        :param extras: of the pyproject.toml.
        :param groups: dependency groups of the pyproject.toml.
        :param index_conn_id: see `PexEnvironment`, as for all other parameters.
        :raises InvalidArgumentError: if an argument is invalid.
        """
        return cls(
            file=path,
            extras=extras,
            groups=groups,
            index_conn_id=index_conn_id,
            base_dir=base_dir,
            python=python,
            glibc=glibc,
        )

    @classmethod
    def from_lock(
        cls,
        path: str | os.PathLike[str],
        *,
        extras: Sequence[str] = (),
        groups: Sequence[str] = (),
        index_conn_id: str | None = None,
        base_dir: str | os.PathLike[str] | None = None,
        python: str | None = None,
        glibc: str | None = None,
    ) -> PexEnvironment:
        """Return a PEX of what a lock file describes. It is read when the key is asked for, and by the build.

        :param path: of a uv.lock, with the pyproject.toml next to it, or of a pylock.toml (PEP 751).
        :param extras: of the lock.
        :param groups: dependency groups of the lock.
        :param index_conn_id: see `PexEnvironment`, as for all other parameters.
        :raises InvalidArgumentError: if an argument is invalid.
        """
        return cls(
            file=check_lock_name(path),
            extras=extras,
            groups=groups,
            index_conn_id=index_conn_id,
            base_dir=base_dir,
            python=python,
            glibc=glibc,
        )

    @classmethod
    def from_script(
        cls,
        path: str | os.PathLike[str],
        *,
        index_conn_id: str | None = None,
        base_dir: str | os.PathLike[str] | None = None,
        python: str | None = None,
        glibc: str | None = None,
    ) -> PexEnvironment:
        """Return the environment that the inline metadata of a script (PEP 723) describes.

        Its key depends on the metadata, and not on the code of the script. If there is a lock of it
        (`uv lock --script job.py`), the versions in the lock are installed.

        :param path: of the script, such as "job.py".
        :param index_conn_id: see `PexEnvironment`, as for all other parameters.
        :raises InvalidArgumentError: if an argument is invalid.
        """
        return cls(
            file=check_script_name(path),
            index_conn_id=index_conn_id,
            base_dir=base_dir,
            python=python,
            glibc=glibc,
        )

    @classmethod
    def from_pex(
        cls,
        path: str | os.PathLike[str],
        *,
        base_dir: str | os.PathLike[str] | None = None,
        python: str | None = None,
        glibc: str | None = None,
    ) -> PexEnvironment:
        """Return the environment of an existing PEX, such as the result of `pex -o app.pex pandas pyarrow`.

        Its key depends on its contents, which are read when the key is asked for. A scie, which is a PEX with its own
        interpreter (`pex --scie eager`), needs no Python on the executors.

        :param path: of a zipapp, which is what `pex -o` makes by default, or of a scie.
        :param python: minor version that runs it; by default the worker's, which pickles the UDFs.
        :param base_dir: see `PexEnvironment`, as for all other parameters.
        :raises InvalidArgumentError: if an argument is invalid.
        """
        return cls(pex=path, base_dir=base_dir, python=python, glibc=glibc)

    def inputs(self) -> dict[str, Any]:
        """Return what is installed, as JSON-compatible data.

        :raises InvalidArgumentError: if a file can't be read, or its contents are invalid.
        """
        from airflow_provider_sparkdeps.environments.input_files import sha256_of

        if self.pex is not None:
            return {"sha256": sha256_of(self._absolute(self.pex))}
        return self._uv_inputs().inputs()

    def _make_builder(self, scratch: Path, context: BuildContext) -> Builder:
        from airflow_provider_sparkdeps.environments.pex.build import PexBuilder
        from airflow_provider_sparkdeps.environments.pex.existing import ExistingPexBuilder

        if self.pex is not None:
            return ExistingPexBuilder(self._absolute(self.pex), self.python_minor, scratch, context)
        return PexBuilder(self, self._uv_inputs(), scratch, context)

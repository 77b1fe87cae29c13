"""Environments that are a PEX: built from requirements, or an existing file."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Unpack

from airflow_provider_sparkdeps.environments.base import CommonOptions
from airflow_provider_sparkdeps.environments.context import BuildContext, Builder
from airflow_provider_sparkdeps.environments.uv_environment import UvEnvironment


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
    :param env_vars: environment variables of the Python workers. Manifests contain them: never write a secret.
    :raises InvalidArgumentError: if an argument is invalid. Files are read later, by `key` and `build`.
    """

    pex: str | os.PathLike[str] | None = field(default=None, kw_only=True)

    kind: ClassVar[str] = "pex"
    _existing: ClassVar[str] = "pex"

    @classmethod
    def from_pex(cls, path: str | os.PathLike[str], **options: Unpack[CommonOptions]) -> PexEnvironment:
        """Return the environment of an existing PEX, such as the result of `pex -o app.pex pandas pyarrow`.

        Its key depends on its contents, which are read when the key is asked for. A scie, which is a PEX with its own
        interpreter (`pex --scie eager`), needs no Python on the executors.

        :param path: of a zipapp, which is what `pex -o` makes by default, or of a scie.
        :param options: see `PexEnvironment`.
        :raises InvalidArgumentError: if an argument is invalid.
        """
        return cls(pex=path, **options)

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

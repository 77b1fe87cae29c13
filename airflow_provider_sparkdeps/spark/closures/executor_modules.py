"""Which modules executors have: those of the attached environment, of the standard library, and of Spark itself."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_sparkdeps.archives import Archive

# Spark puts these on the path of its Python workers, whatever their interpreter.
_OF_SPARK = frozenset({"pyspark", "py4j"})


@dataclass(frozen=True)
class ExecutorModules:
    """The modules that executors can import, as far as that is known.

    :param environment: top-level names of the environment's modules; None if they are not known, or if there is no
        environment.
    :param sealed: executors find nothing beside these: the environment has an interpreter of its own.
    :param shipped: top-level names of what was sent with `py_files`.
    :param root: the directory whose modules travel by value, and which executors don't have.
    """

    environment: frozenset[str] | None = None
    sealed: bool = False
    shipped: frozenset[str] = frozenset()
    root: Path | None = None

    @classmethod
    def of(
        cls, archive: Archive | None, *, py_files: Sequence[str | Path] = (), root: Path | None = None
    ) -> ExecutorModules:
        """Read what an archive's manifest says; manifests of before it said so leave it open."""
        names = archive.contents.modules if archive else None
        return cls(
            environment=frozenset(names) if names is not None else None,
            sealed=bool(archive and archive.interpreter),
            shipped=frozenset(Path(path).name.removesuffix(".py") for path in py_files),
            root=root.resolve() if root else None,
        )

    @property
    def is_certain(self) -> bool:
        """Whether what is not known here is not there."""
        return self.sealed and self.environment is not None

    def has(self, module: str) -> bool | None:
        """Return whether executors have a module; None if that is not known."""
        top = module.partition(".")[0]
        if self.is_everywhere(module) or top in self.shipped:
            return True
        if self.environment is None:
            return False if self.is_own(module) else None
        if top in self.environment:
            return True
        return False if self.sealed or self.is_own(module) else None

    @staticmethod
    def is_everywhere(module: str) -> bool:
        """Whether a module is of the standard library or of Spark."""
        top = module.partition(".")[0]
        return top in sys.stdlib_module_names or top in _OF_SPARK

    def is_own(self, module: str) -> bool:
        """Whether a module is a file of the DAG's own, which only the machine has that runs the task."""
        if self.root is None:
            return False
        from airflow_provider_sparkdeps.spark.closures.by_value import is_below

        loaded = sys.modules.get(module) or sys.modules.get(module.partition(".")[0])
        if loaded is not None:
            return is_below(self.root, getattr(loaded, "__file__", None))
        top = module.partition(".")[0]
        return any((self.root / name).is_file() for name in (f"{top}.py", f"{top}/__init__.py"))

    def remedy(self, module: str) -> str:
        """Say what to do about a module that executors don't have."""
        top = module.partition(".")[0]
        if top == "airflow":
            return (
                "Airflow is on its workers only: take what you need out of it in the callable, into a variable of its "
                "own, and use that"
            )
        if self.is_own(module):
            return (
                f"write `from {module} import ...` at the top of the file, so that it travels along, or send it with "
                "py_files="
            )
        distributions = metadata.packages_distributions().get(top)
        wanted = " or ".join(sorted(set(distributions))) if distributions else f"the package that has `{top}`"
        return f"add {wanted} to the environment (or import it inside `try`, if executors have it from elsewhere)"

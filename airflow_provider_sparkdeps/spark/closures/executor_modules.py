"""Knows which modules executors can import: those of the environment, of the standard library, and of Spark."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_sparkdeps.spark.closures.by_value import is_below

if TYPE_CHECKING:
    from airflow_provider_sparkdeps.archives import Archive

# Spark adds these to the path of its Python workers, whatever their interpreter.
_SPARK_PACKAGES = frozenset({"pyspark", "py4j"})


@dataclass(frozen=True)
class ExecutorModules:
    """The modules that executors can import, where this is known.

    :param environment: top-level names of the environment's modules; None if they are not known, or if there is no
        environment.
    :param has_interpreter: the environment has its own interpreter, so executors find no other packages.
    :param py_files: top-level names of the modules that were sent with `py_files`.
    :param root: the directory whose modules are pickled by value, and which executors don't have.
    """

    environment: frozenset[str] | None = None
    has_interpreter: bool = False
    py_files: frozenset[str] = frozenset()
    root: Path | None = None

    @classmethod
    def of(
        cls, archive: Archive | None, *, py_files: Sequence[str | Path] = (), root: Path | None = None
    ) -> ExecutorModules:
        """Return the modules that an archive's manifest lists. Old manifests have no list."""
        names = archive.contents.modules if archive else None
        return cls(
            environment=frozenset(names) if names is not None else None,
            has_interpreter=bool(archive and archive.interpreter),
            py_files=frozenset(Path(path).name.removesuffix(".py") for path in py_files),
            root=root,
        )

    @property
    def is_certain(self) -> bool:
        """Whether executors can't import any module that is not known here."""
        return self.has_interpreter and self.environment is not None

    def has(self, module: str) -> bool | None:
        """Return whether executors can import a module; None if that is not known."""
        top = module.partition(".")[0]
        if self.is_builtin(module) or top in self.py_files:
            return True
        if self.environment is not None and top in self.environment:
            return True
        return False if self.is_certain or self.is_dag_module(module) else None

    @staticmethod
    def is_builtin(module: str) -> bool:
        """Return whether a module belongs to the standard library or to Spark."""
        top = module.partition(".")[0]
        return top in sys.stdlib_module_names or top in _SPARK_PACKAGES

    def is_dag_module(self, module: str) -> bool:
        """Return whether a module is a file below `root`, which only the worker has."""
        if self.root is None:
            return False
        top = module.partition(".")[0]
        loaded = sys.modules.get(module) or sys.modules.get(top)
        if loaded is not None:
            return is_below(self.root, getattr(loaded, "__file__", None))
        return any((self.root / name).is_file() for name in (f"{top}.py", f"{top}/__init__.py"))

    def is_loose(self, module: str) -> bool:
        """Return whether a task uses a file of its worker that no package installed, such as one on PYTHONPATH."""
        top = module.partition(".")[0]
        if self.root is None or self.is_builtin(top) or top == "__main__":
            return False
        place = _place(top)
        installed = {"site-packages", "dist-packages"}
        return place is not None and not installed & {*place.parts} and top not in _distributions()

    def how_to_add(self, module: str) -> str:
        """Return how to make a missing module available to executors, as a sentence."""
        top = module.partition(".")[0]
        if top == "airflow":
            return (
                "Airflow is installed on workers only. Assign what you need from it to a variable in the callable, and "
                "use that variable."
            )
        if self.is_dag_module(module):
            return (
                f"Write `from {module} import ...` at the top of the file, so that it is pickled with the function, or "
                "send the module with py_files=."
            )
        if self.is_loose(module):
            return f"It is a file of this worker: send it with py_files=[{str(_place(top))!r}]."
        distributions = _distributions().get(top)
        package = " or ".join(sorted(set(distributions))) if distributions else f"the package that provides `{top}`"
        return f"Add {package} to the environment, or import it inside `try` if executors have it from elsewhere."


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    """Return the installed distributions by top-level module; finding them takes half a second."""
    return metadata.packages_distributions()


def _place(top: str) -> Path | None:
    """Return the file or the directory of a top-level module, without importing it; None if there is none."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    file = Path(spec.origin)
    return file.parent if spec.submodule_search_locations else file

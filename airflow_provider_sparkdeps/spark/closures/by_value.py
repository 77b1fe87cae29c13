"""Pickles functions of the DAG's own modules by value, since executors can't import these."""

from __future__ import annotations

import functools
import itertools
import re
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from airflow_provider_sparkdeps.spark import pyspark_compat

_CACHED: Any = functools._lru_cache_wrapper
_INSTALLED = re.compile(r"(?:^|/)(?:site-packages|dist-packages|lib(?:64)?/python3\.\d+t?)/")


@contextmanager
def pickle_by_value(root: Path, *, sent: Collection[str] = ()) -> Iterator[None]:
    """Pickle the functions and classes of modules below `root` by value, in this block.

    Otherwise they would be pickled as the name of their module, which executors do not have. Modules that are imported
    inside the block are included.

    :param root: a directory of source files, for example a DAG bundle.
    :param sent: top-level names of modules that executors import, since they are sent with `py_files`.
    """
    registered: list[ModuleType] = []
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in sent and is_below(root, _file_of(module)):
            _register(module, registered)
    finder = _Finder(root, sent, registered)
    sys.meta_path.insert(0, finder)
    reducers = pyspark_compat.cloudpickle_reducers()
    adds_reducer = _CACHED not in reducers
    if adds_reducer:
        reducers[_CACHED] = _reduce_cached
    try:
        yield
    finally:
        if adds_reducer:
            reducers.pop(_CACHED, None)
        sys.meta_path.remove(finder)
        _unregister(registered)


def is_below(root: Path, file: Any) -> bool:
    """Return whether a module's file is one of the sources below `root`, also if it is a link to another place."""
    if not isinstance(file, str):
        return False
    found, bases = Path(file), (root.absolute(), root.resolve())
    for path, base in itertools.product((found.absolute(), found.resolve()), bases):
        # A Python or a virtualenv may be below a bundle's root, but its modules are installed, not sources.
        if path.is_relative_to(base):
            return not _INSTALLED.search(path.relative_to(base).as_posix())
    return False


def _file_of(module: Any) -> Any:
    """Return a module's file. Looking up an attribute would import a lazy module, or run what users define for it."""
    try:
        return object.__getattribute__(module, "__dict__").get("__file__")
    except AttributeError:
        return None


def _reduce_cached(wrapper: Any) -> Any:
    """Reduce what `functools.lru_cache` returns, which pickle takes by its name only, as its function is pickled."""
    if _is_importable(wrapper):
        return wrapper.__reduce__()
    limits = wrapper.cache_parameters()
    arguments = (wrapper.__wrapped__, limits["maxsize"], limits["typed"], functools._CacheInfo)
    state = {name: value for name, value in vars(wrapper).items() if name != "cache_parameters"}
    return _CACHED, arguments, state


def _is_importable(wrapper: Any) -> bool:
    """Return whether executors find a cached function by its name, in a module that is not pickled by value."""
    from pyspark import cloudpickle

    module = getattr(wrapper, "__module__", None) or ""
    by_value = cloudpickle.list_registry_pickle_by_value()
    if module == "__main__" or any(f"{module}.".startswith(f"{name}.") for name in by_value):
        return False
    found: Any = sys.modules.get(module)
    for name in getattr(wrapper, "__qualname__", "").split("."):
        found = getattr(found, name, None)
    return found is wrapper


def _register(module: ModuleType, registered: list[ModuleType]) -> None:
    from pyspark import cloudpickle

    # Registered by an outer block or by the user, or not imported in the usual way.
    if module.__name__ in sys.modules and module.__name__ not in cloudpickle.list_registry_pickle_by_value():
        cloudpickle.register_pickle_by_value(module)
        registered.append(module)


def _unregister(registered: list[ModuleType]) -> None:
    from pyspark import cloudpickle

    for module in registered:
        try:
            cloudpickle.unregister_pickle_by_value(module)
        except ValueError:
            continue  # already unregistered by other code, or registered twice


class _Finder(MetaPathFinder):
    """Finds modules below a root as the path finder does, and registers them when they are loaded."""

    def __init__(self, root: Path, sent: Collection[str], registered: list[ModuleType]) -> None:
        self._root = root
        self._sent = sent
        self._registered = registered

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] in self._sent:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None or not is_below(self._root, spec.origin):
            return None
        spec.loader = _Registering(spec.loader, self._registered)
        return spec


class _Registering(Loader):
    """Wraps a module's loader, and registers the module after `exec_module`."""

    def __init__(self, loader: Loader, registered: list[ModuleType]) -> None:
        self._loader = loader
        self._registered = registered

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # A module that is pickled by value is pickled with its loader, so the original one is put back.
        module.__loader__ = self._loader
        if module.__spec__:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _register(module, self._registered)

"""The package's root: what users import from it, and what that costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import airflow_provider_sparkdeps as root


@pytest.mark.parametrize("name", root._MODULES)
def test_a_public_name_is_what_its_module_defines(name: str) -> None:
    value = getattr(root, name)
    assert value.__name__ == name
    assert value.__module__.startswith(f"airflow_provider_sparkdeps.{root._MODULES[name]}")
    assert name in dir(root)
    assert name in root.__all__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'VenvEnviroment'"):
        _ = root.VenvEnviroment


def test_the_root_loads_a_name_only_when_it_is_used() -> None:
    code = (
        "import sys, airflow_provider_sparkdeps as root\n"
        "ours = lambda: sorted(name for name in sys.modules if name.startswith(root.__name__ + '.'))\n"
        "assert ours() == [], ours()\n"
        "root.VenvEnvironment, root.Max, root.ArchiveStore\n"
        "print(sorted({'airflow', 'pyspark', 'grpc', 'rattler', 'pandas', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""The metadata of PEX files."""

from __future__ import annotations

import pytest

from airflow_provider_sparkdeps.environments.pex.pex_info import PexInfo


@pytest.mark.parametrize(
    ("wheels", "constraints", "pythons"),
    [
        (("a-1-cp312-cp312-manylinux_2_28_x86_64.whl", "b-1-py3-none-any.whl"), (), "3.12"),
        (("a-1-cp311-cp311-linux_x86_64.whl", "a-1-cp312-cp312-linux_x86_64.whl"), (), "3.11 to 3.12"),
        (("a-1-cp311-abi3-linux_x86_64.whl", "b-1-py2.py3-none-any.whl"), (), "3.11 and later"),
        (("a-1-cp311-abi3-linux_x86_64.whl",), ("CPython<3.13,>=3.9",), "3.11 to 3.12"),
        (("b-1-py3-none-any.whl",), ("==3.10.*", "CPython==3.9.*"), "3.9 to 3.10"),
        (("a-1-cp311-cp311-linux_x86_64.whl", "b-1-cp312-cp312-linux_x86_64.whl"), (), "no known version"),
        (("a-1-pp310-pypy310_pp73-linux_x86_64.whl",), (), "no known version"),
    ],
)
def test_the_pythons_of_a_pex_are_read_from_its_wheels_and_constraints(
    wheels: tuple[str, ...], constraints: tuple[str, ...], pythons: str
) -> None:
    assert PexInfo(scie=False, constraints=constraints, wheels=wheels).pythons == pythons

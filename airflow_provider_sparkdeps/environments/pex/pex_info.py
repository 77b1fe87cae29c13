"""The metadata of PEX files: which packages they hold, and which Pythons can run them."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError

_ELF = b"\x7fELF"
# A scie ends with its manifest, a JSON object of a few kilobytes.
_SCIE_TAIL, _SCIE_MARK = 1 << 18, b'"scie"'
_MINORS = range(6, 30)


@dataclass(frozen=True)
class PexInfo:
    """The metadata of a PEX.

    :param scie: whether it contains an interpreter.
    :param constraints: on the interpreter, such as "CPython==3.12.*". One of them must be satisfied, if there are any.
    :param wheels: file names of its wheels; several for a package if it supports several platforms.
    """

    scie: bool
    constraints: tuple[str, ...]
    wheels: tuple[str, ...]

    @property
    def packages(self) -> frozenset[str]:
        """The canonical names of the packages in it."""
        from packaging.utils import parse_wheel_filename

        return frozenset(parse_wheel_filename(wheel)[0] for wheel in self.wheels)

    def incompatibility(self, minor: str) -> str | None:
        """Return why a minor version of Python, such as "3.12", can't run it; None if it can."""
        from packaging.utils import parse_wheel_filename

        number = int(minor.split(".")[1])
        if self.constraints and not any(_satisfies(constraint, minor) for constraint in self.constraints):
            return f"its interpreter constraints are {' or '.join(self.constraints)}"
        by_name: dict[str, list[str]] = {}
        compatible = set()
        for wheel in self.wheels:
            name, _, _, tags = parse_wheel_filename(wheel)
            by_name.setdefault(name, []).append(wheel)
            if any(_is_compatible(tag.interpreter, tag.abi, number) for tag in tags):
                compatible.add(name)
        return next((f"it has {' and '.join(by_name[name])}" for name in by_name if name not in compatible), None)

    @property
    def pythons(self) -> str:
        """The versions of Python that can run it by its metadata, such as "3.12" or "3.11 to 3.13"."""
        minors = [number for number in _MINORS if self.incompatibility(f"3.{number}") is None]
        if not minors:
            return "no known version"
        first, last = minors[0], minors[-1]
        if last == _MINORS[-1]:
            return f"3.{first} and later"
        return f"3.{first}" if first == last else f"3.{first} to 3.{last}"


def _is_wheel(name: str) -> bool:
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    try:
        parse_wheel_filename(name)
    except InvalidWheelFilename:
        return False
    return True


def _satisfies(constraint: str, minor: str) -> bool:
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        # "CPython>=3.11", or only ">=3.11". Others, such as "CPython+t", are left to pex.
        requirement = Requirement(constraint if constraint[:1].isalpha() else f"CPython{constraint}")
    except InvalidRequirement:
        return True
    return any(requirement.specifier.contains(f"{minor}.{patch}") for patch in range(100))


def _is_compatible(interpreter: str, abi: str, number: int) -> bool:
    if not interpreter[2:].isdigit() or interpreter[2] != "3":
        return False
    minor = int(interpreter[3:] or 0)
    or_later = interpreter.startswith("py") or abi == "abi3"
    return interpreter[:2] in ("py", "cp") and (minor == number or (or_later and minor <= number))


def read_info(path: Path) -> PexInfo:
    """Return the metadata of a PEX file.

    :raises InvalidArgumentError: if it is not a PEX.
    """
    with path.open("rb") as file:
        native = file.read(len(_ELF)) == _ELF
        scie = native and _SCIE_MARK in _tail(file)
    try:
        with zipfile.ZipFile(path) as archive:
            facts = json.loads(archive.read("PEX-INFO"))
            constraints, wheels = facts.get("interpreter_constraints") or (), facts.get("distributions") or ()
            wheels = tuple(sorted(filter(_is_wheel, wheels)))
            return PexInfo(scie=scie, constraints=tuple(map(str, constraints)), wheels=wheels)
    except (zipfile.BadZipFile, KeyError, ValueError, AttributeError) as error:
        if scie:
            # The PEX is inside of the scie's own archive.
            return PexInfo(scie=True, constraints=(), wheels=())
        kind = "a native program, but not a scie" if native else "not a zip file with a PEX-INFO"
        raise InvalidArgumentError(
            f"{path} is not a PEX: it is {kind}. Build one with `pex pandas pyarrow -o {path.name}`, in the"
            " default layout zipapp, or with --scie eager to include a Python."
        ) from error


def _tail(file: BinaryIO) -> bytes:
    size = file.seek(0, 2)
    file.seek(max(0, size - _SCIE_TAIL))
    return file.read()

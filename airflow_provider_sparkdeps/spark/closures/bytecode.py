"""Reads a function's bytecode: the globals that it uses and sets, and the modules that it imports when it runs."""

from __future__ import annotations

import contextlib
import dis
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType

_JUMPS = frozenset(dis.hasjrel) | frozenset(dis.hasjabs)
_GLOBAL_OPS = ("LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL")
_ATTRIBUTE_OPS = ("LOAD_ATTR", "LOAD_METHOD")


@dataclass(frozen=True)
class Import:
    """An import statement inside a function.

    :param module: its absolute name, for example "sklearn.linear_model".
    :param certain: it always runs, and nothing catches its failure.
    :param guarded: it is inside `try` or `with`, or in a nested function.
    """

    module: str
    certain: bool
    guarded: bool


@dataclass(frozen=True)
class CodeFacts:
    """What a code object and the code objects nested in it refer to.

    :param globals: all names of globals; cloudpickle pickles the ones that exist.
    :param stores: the globals that it sets (`global x`).
    :param attributes: the attributes of globals that it reads, in order, by the global's name.
    """

    globals: tuple[str, ...]
    stores: frozenset[str]
    imports: tuple[Import, ...]
    attributes: dict[str, tuple[str, ...]]


def read_code(code: CodeType, package: str | None = None) -> CodeFacts:
    """Read a code object and the code objects nested in it. Nothing is run.

    :param package: the package of its module, for relative imports.
    """
    names: dict[str, None] = {}
    stores: set[str] = set()
    imports: list[Import] = []
    attributes: dict[str, dict[str, None]] = {}
    for each, nested in _with_nested(code):
        bytecode = dis.Bytecode(each)
        instructions = [one for one in bytecode if one.opname not in ("EXTENDED_ARG", "CACHE")]
        guards = [] if nested else _guards(bytecode, instructions)
        straight = not nested
        for index, one in enumerate(instructions):
            straight = straight and one.opcode not in _JUMPS
            if one.opname in _GLOBAL_OPS:
                names[one.argval] = None
                if one.opname == "STORE_GLOBAL":
                    stores.add(one.argval)
                following = instructions[index + 1] if index + 1 < len(instructions) else one
                if following.opname in _ATTRIBUTE_OPS:
                    attributes.setdefault(one.argval, {})[following.argval] = None
            elif one.opname == "IMPORT_NAME" and (module := _absolute(one, instructions[index - 2], package)):
                guarded = nested or any(start <= one.offset < end for start, end in guards)
                imports.append(Import(module, certain=straight and not guarded, guarded=guarded))
    return CodeFacts(
        tuple(names), frozenset(stores), tuple(imports), {name: tuple(used) for name, used in attributes.items()}
    )


def _with_nested(code: CodeType) -> Iterator[tuple[CodeType, bool]]:
    waiting = [(code, False)]
    while waiting:
        each, nested = waiting.pop()
        yield each, nested
        waiting += [(const, True) for const in reversed(each.co_consts) if isinstance(const, CodeType)]


def _guards(bytecode: dis.Bytecode, instructions: list[dis.Instruction]) -> list[tuple[int, int]]:
    """Return the ranges of offsets inside `try` and `with`."""
    at = {one.offset: one.opname for one in instructions}
    # The handler around the whole body of a generator only turns StopIteration into another error.
    return [
        (entry.start, entry.end)
        for entry in bytecode.exception_entries  # type: ignore[attr-defined]
        if at.get(entry.target) != "CALL_INTRINSIC_1"
    ]


def _absolute(one: dis.Instruction, level: dis.Instruction, package: str | None) -> str | None:
    depth = level.argval if isinstance(level.argval, int) else 0
    if not depth:
        return str(one.argval)
    with contextlib.suppress(ImportError):
        return importlib.util.resolve_name("." * depth + one.argval, package)
    return None

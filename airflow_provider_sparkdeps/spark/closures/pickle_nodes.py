"""Pickles as places: what a value in one is, where it begins and ends, and how long each operation is."""

from __future__ import annotations

import pickletools
from collections.abc import Sequence
from typing import Any, TypeGuard

MARK = object()
# Operations that make something empty to be filled, or a text of bytes.
HOLDERS = frozenset(
    ("EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET", "EMPTY_TUPLE", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8")
)


class Node:
    """A value in the pickle: where it is, and what is in it, as far as names need it.

    :param pairs: of a dict with texts as keys; None for all else.
    :param function: the name, if it is a function or a class that travels by value.
    :param same: what this stands for, if it stands elsewhere.
    """

    __slots__ = ("end", "freevars", "function", "items", "pairs", "same", "start", "text")

    def __init__(self, start: int, end: int = 0, text: str | None = None, items: Any = ()) -> None:
        self.start = start
        self.end = end
        self.text = text
        self.items = items
        self.pairs: list[tuple[Any, Any]] | None = None
        self.function: str | None = None
        self.freevars: tuple[str, ...] = ()
        self.same: Node | None = None


def again(known: Any, start: int, end: int) -> Any:
    """What stands elsewhere, and takes no room here."""
    if not is_node(known):
        return known
    node = Node(start, end, known.text, known.items)
    node.pairs, node.same = known.pairs, known.same or known
    return node


def is_node(value: Any) -> TypeGuard[Node]:
    return isinstance(value, Node)


def is_text(value: Any) -> TypeGuard[Node]:
    return isinstance(value, Node) and value.text is not None


def pairs_of(value: Any) -> Sequence[tuple[str, Any]]:
    return value.pairs or () if is_node(value) else ()


def texts_of(value: Any) -> tuple[str, ...]:
    return tuple(item.text or "" for item in value.items if is_node(item)) if is_node(value) else ()


def start_of(value: Any, otherwise: int) -> int:
    return value.start if is_node(value) else otherwise


def _operations() -> dict[int, tuple[str, int, int]]:
    """By code: the name, the length of the argument, and that of the number before it that says how long it is."""
    counted = {
        pickletools.TAKEN_FROM_ARGUMENT1: 1,
        pickletools.TAKEN_FROM_ARGUMENT4: 4,
        pickletools.TAKEN_FROM_ARGUMENT4U: 4,
        pickletools.TAKEN_FROM_ARGUMENT8U: 8,
    }
    lengths = {ord(each.code): (each.name, each.arg.n if each.arg else 0) for each in pickletools.opcodes}
    return {code: (name, length, counted.get(length, 0)) for code, (name, length) in lengths.items()}


OPERATIONS = _operations()
# Numbers and the like, which are of no account: how long they are.
PLAIN = {
    code: length
    for code, (name, length, _) in OPERATIONS.items()
    if name in ("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "BINFLOAT")
}

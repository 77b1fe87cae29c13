"""Reads from a pickled function which of its variables are large, and runs nothing of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from airflow_provider_sparkdeps.spark.closures.pickle_nodes import (
    HOLDERS,
    MARK,
    OPERATIONS,
    PLAIN,
    Node,
    again,
    is_node,
    is_text,
    pairs_of,
    start_of,
    texts_of,
)

# What is read before it is given up; a variable of as many parts is large in itself, and known by then.
_MAX_OPS = 2_000_000
_LONGEST_NAME = 1000
_DEEPEST = 20
# Where a pickled function keeps its variables.
_SLOTS = frozenset(("__globals__", "__closure__", "__kwdefaults__"))


@dataclass(frozen=True)
class Part:
    """A variable in a pickled function.

    :param name: as the function calls it.
    :param owner: the functions that lead to it: `("score", "lookup")`.
    :param size: in bytes.
    :param read: False if reading stopped in the midst of it; then `size` is that of all that follows, too.
    """

    name: str
    owner: tuple[str, ...]
    size: int
    read: bool = True


def largest_part(pickled: bytes) -> Part | None:
    """Return the largest variable of a function that cloudpickle has pickled by value, or of those that it captures.

    Globals, closure cells, defaults, and the attributes of functions, classes and instances are variables.

    :return: None if there is none, or if it can't be told.
    """
    reading = _Reading(pickled)
    # Pickled by something else than is known here: what was read up to there is sound.
    with contextlib.suppress(IndexError, KeyError, ValueError, TypeError, AttributeError):
        reading.run()
    return max(reading.parts(), key=lambda part: part.size, default=None)


class _Reading:
    """A machine for pickles that keeps places instead of values."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._uses: list[tuple[Node, str, Node]] = []
        self._unread: Node | None = None

    def parts(self) -> Iterator[Part]:
        """What functions and classes were seen to have; of those that they have in turn, it is theirs."""
        parents: dict[int, Node] = {}
        for owner, _, value in self._uses:
            inner = value.same or value
            if inner.function and inner is not owner:
                parents.setdefault(id(inner), owner)
        for owner, name, value in self._uses:
            if (value.same or value).function:
                continue
            path, holder = [owner.function or "?"], parents.get(id(owner))
            while holder is not None and len(path) < _DEEPEST:
                path.insert(0, holder.function or "?")
                holder = parents.get(id(holder))
            yield Part(name, tuple(path), value.end - value.start, read=value is not self._unread)

    def run(self) -> None:
        data, position, size = self._data, 0, len(self._data)
        stack, memo = self._stack, self._memo
        for _ in range(_MAX_OPS):
            start = position
            code = data[position]
            position += 1
            if code in PLAIN:
                stack.append(None)
                position += PLAIN[code]
                continue
            name, length, takes = OPERATIONS[code]
            if name == "MEMOIZE":
                memo[len(memo)] = stack[-1]
                continue
            argument = position + takes
            if takes:
                position = argument + int.from_bytes(data[position:argument], "little")
            elif length >= 0:
                position += length
            else:
                for _line in range(2 if name in ("GLOBAL", "INST") else 1):
                    position = data.index(b"\n", position) + 1
            if name == "STOP":
                return
            self._step(name, start, argument, position)
        self._give_up(size)

    def _step(self, name: str, start: int, argument: int, end: int) -> None:
        stack = self._stack
        if name in ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"):
            short = end - argument <= _LONGEST_NAME
            stack.append(Node(start, end, str(self._data[argument:end], "utf-8", "replace") if short else None))
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(again(self._memo[int.from_bytes(self._data[argument:end], "little")], start, end))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[int.from_bytes(self._data[argument:end], "little")] = stack[-1]
        elif name == "MARK":
            stack.append(MARK)
        elif name in HOLDERS:
            stack.append(Node(start, end))
            if name == "EMPTY_DICT":
                stack[-1].pairs = []
        elif name in ("APPEND", "SETITEM"):
            self._fill([stack.pop() for _ in range(1 if name == "APPEND" else 2)][::-1], end)
        elif name in ("APPENDS", "SETITEMS", "ADDITEMS"):
            self._fill(self._to_mark(), end)
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            self._push_tuple([stack.pop() for _ in range(int(name[-1]))][::-1], end)
        elif name in ("TUPLE", "FROZENSET", "LIST", "DICT"):
            self._push_tuple(self._to_mark(), end)
        elif name in ("REDUCE", "NEWOBJ", "STACK_GLOBAL", "BUILD"):
            second, first = stack.pop(), stack.pop()
            stack.append(self._join(name, first, second, end))
        elif name == "NEWOBJ_EX":
            _, _, first = stack.pop(), stack.pop(), stack.pop()
            stack.append(Node(start_of(first, end), end))
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            self._to_mark()
        elif name not in ("PROTO", "FRAME"):
            stack.append(None)  # a long number, ...: of no account

    def _join(self, name: str, first: Any, second: Any, end: int) -> Any:
        if name == "BUILD":
            return self._build(first, second, end)
        if name == "STACK_GLOBAL":
            return Node(start_of(first, end), end, items=(second.text if is_node(second) else None,))
        return self._call(first, second, end)

    def _to_mark(self) -> list[Any]:
        place = len(self._stack) - 1
        while self._stack[place] is not MARK:
            place -= 1
        items = self._stack[place + 1 :]
        del self._stack[place:]
        return items

    def _fill(self, items: list[Any], end: int) -> None:
        holder = self._stack[-1]
        holder.end = end
        if holder.pairs is not None and len(holder.pairs) < _LONGEST_NAME:
            pairs = zip(items[::2], items[1::2], strict=True)
            holder.pairs += [(key.text, value) for key, value in pairs if is_text(key)]

    def _push_tuple(self, items: list[Any], end: int) -> None:
        start = next((item.start for item in items if is_node(item)), end - 1)
        self._stack.append(Node(start, end, items=items[:_LONGEST_NAME]))

    def _call(self, function: Any, arguments: Any, end: int) -> Node:
        node = Node(start_of(function, end), end)
        called = function.items[0] if is_node(function) and function.items else None
        given: Any = arguments.items if is_node(arguments) else ()
        if called == "_make_function":
            node.function, node.freevars = "?", texts_of(given[0].items[-2])
        elif called == "_function_setstate":
            self._function_state(given[0].same or given[0], given[1])
        elif called in ("_make_skeleton_class", "_make_skeleton_enum"):
            node.function = given[1].text
        elif called == "_class_setstate":
            self._class_state(given[0].same or given[0], given[1])
        elif called in ("_make_cell", "_builtin_type") or is_text(called):
            # The last is what `_builtin_type("CodeType")` returned, called to make a code object.
            node.items = given
        return node

    def _build(self, holder: Any, state: Any, end: int) -> Any:
        if is_node(holder):
            holder.end = end
            inside = state.items[0] if is_node(state) and state.pairs is None and state.items else state
            for name, value in pairs_of(inside):
                self._use(holder, f"self.{name}", value)
        return holder

    def _function_state(self, function: Node, state: Node) -> None:
        attributes, slots = state.items
        values = dict(pairs_of(slots))
        if is_text(values.get("__name__")):
            function.function = values["__name__"].text
        for mapping in (values.get("__globals__"), values.get("__kwdefaults__"), attributes):
            for name, value in pairs_of(mapping):
                self._use(function, name, value)
        cells = values.get("__closure__")
        for name, cell in zip(function.freevars, cells.items if is_node(cells) else (), strict=False):
            if is_node(cell) and cell.items:
                self._use(function, name, cell.items[0])
        defaults = values.get("__defaults__")
        for value in defaults.items if is_node(defaults) else ():
            self._use(function, "a default", value)

    def _class_state(self, owner: Node, state: Node) -> None:
        for name, value in pairs_of(state.items[0]):
            self._use(owner, name, value)

    def _use(self, owner: Node, name: str, value: Any) -> None:
        if is_node(value):
            self._uses.append((owner, name, value))

    def _give_up(self, end: int) -> None:
        """Name the variable that is still being read: it has a great many parts."""
        keys = list(self._open_keys())
        place = next((at for at, (_, key) in reversed(list(enumerate(keys))) if key.text in _SLOTS), None)
        if place is None or keys[place][1].text != "__closure__":
            place = 0 if place is None else place + 1
        if place >= len(keys):
            return
        at, key = keys[place]
        before = self._stack[:at]
        # Functions beside the key belong to other keys; whose state it is stands before them all.
        outside = before[: max((place for place, one in enumerate(before) if one is MARK), default=at)]
        owner = next(
            (one.same or one for one in reversed(outside) if is_node(one) and (one.same or one).function), None
        )
        owner = owner or Node(0)
        names = [at for at, one in enumerate(before) if is_text(one) and one.text == "__name__"]
        if names and names[-1] + 1 < at and is_text(before[names[-1] + 1]):
            owner.function = before[names[-1] + 1].text
        name = key.text
        if name == "__closure__":
            cells = [one for one in self._stack[at + 1 :] if one is not MARK]
            made = next((at for at, one in enumerate(cells) if one.items == ("_make_cell",)), 0)
            name = owner.freevars[made] if made < len(owner.freevars) else "a closure cell"
        self._unread = Node(key.end, end)
        self._uses.append((owner, name or "", self._unread))

    def _open_keys(self) -> Iterator[tuple[int, Node]]:
        """The keys whose values are being read, the outermost first, and where on the stack they are."""
        stack = self._stack
        marks = [at for at, one in enumerate(stack) if one is MARK]
        for mark, upto in zip([-1, *marks], [*marks, len(stack)], strict=True):
            after = mark + 1
            if mark > 0 and is_node(stack[mark - 1]) and stack[mark - 1].pairs is not None:
                keys = [at for at in range(mark + 1, upto, 2) if is_text(stack[at])]
                # The last thing that a function's state has; what follows is inside.
                keys = keys[: next((n + 1 for n, at in enumerate(keys) if stack[at].text == "__globals__"), None)]
                if keys:
                    after = keys[-1] + 1
                    yield keys[-1], stack[keys[-1]]
            # A dict of one entry is filled without a mark.
            for at in range(after, upto - 1):
                if is_node(stack[at]) and stack[at].pairs == [] and is_text(stack[at + 1]):
                    yield at + 1, stack[at + 1]

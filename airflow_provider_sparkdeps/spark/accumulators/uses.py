"""Finds where a request uses accumulators, and gives each use an identity that does not change what Spark caches."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

PREFIX = "sparkdeps-accumulator"
_TOKEN = re.compile(rf"{PREFIX}:([0-9a-f]{{32}}):([0-9a-f]{{32}})".encode())
_UNION = 2
# SQL before conditions, which Spark may copy to the other side of a join.
_CLAUSES = frozenset(("where", "on", "having"))
# SQL that may run or use something several times.
_REPEATING = frozenset(("with", "begin", "while", "loop", "repeat", "for"))
# Fields that differ each time a plan is made: they say nothing about its meaning.
_VOLATILE = frozenset(("common", "plan_id"))
_JOINS = frozenset(("join", "lateral_join", "as_of_join", "nearest_by_join", "set_op"))
_CONDITIONS = _JOINS | {"filter"}
_BRANCHING = _JOINS | {"co_group_map", "union", "zip", "with_relations"}
# After these, the rows may be partitioned as an operator needs them. A table may be, and a view may contain these.
_PARTITIONING = _JOINS | frozenset(
    (
        *("repartition", "repartition_by_expression", "aggregate", "deduplicate", "group_map", "co_group_map", "sort"),
        *("read", "sql", "cached_remote_relation"),
    )
)
# Relations that need all rows and columns of their input.
_WHOLE = frozenset(
    (
        *("", "project", "with_columns", "with_columns_renamed", "drop", "to_df", "to_schema", "subquery_alias"),
        *("hint", "repartition", "repartition_by_expression", "sort", "map_partitions", "collect_metrics", "union"),
        *("with_relations", "sql"),
    )
)
# Relations that read tables, files, views and catalogs.
_NAMED = frozenset(("read", "sql", "catalog", "common_inline_user_defined_data_source", "cached_remote_relation"))
_CALLS = frozenset(("CommonInlineUserDefinedFunction", "CommonInlineUserDefinedTableFunction"))

UseKey = tuple[str, str]
"""The id of an accumulator, and the nonce of a use."""


@dataclass(frozen=True)
class Use:
    """What a query says about the use of an accumulator.

    :param places: how often the function stands in the query.
    :param known: False if it may be more often: in a common table expression.
    :param chained: it stands several times on one path through the query, so that one task may run all of them.
    :param joined: it stands on both sides of a join.
    :param several: a task may compute several partitions, for example after `coalesce`.
    :param filtered: it stands in a condition, or its result may be part of one. Spark moves conditions to inputs.
    :param joins: above it, on one column. A condition on one side holds on the other side, too, and is copied.
    :param wide_joins: above it, on several columns or a condition. They make conditions themselves.
    :param branches: joins and unions below it. Spark may move it to each of their inputs.
    :param partitioned: its input may be partitioned as a join needs it. Both sides may then be in one task.
    :param hidden: the query reads something by name, which may be a view with joins and unions.
    :param narrowed: only some of its rows may be needed, as below a filter or a join. Spark may evaluate it twice then.
    :param moved: tasks may number the partitions in another way, as above a union.
    :param cached: the cached DataFrame that contains all its places.
    """

    places: int = 1
    known: bool = True
    chained: bool = False
    joined: bool = False
    several: bool = False
    filtered: bool = False
    joins: int = 0
    wide_joins: int = 0
    branches: int = 0
    partitioned: bool = False
    hidden: bool = False
    narrowed: bool = False
    moved: bool = False
    cached: str | None = None

    @property
    def copies(self) -> int:
        """To how many other inputs of the query Spark may copy it."""
        if self.filtered:
            return self.joins + self.wide_joins + self.branches
        # A join makes the condition that its own columns are not null.
        return self.wide_joins + max(0, self.joins - 1) + (self.branches if self.joins or self.wide_joins else 0)


Uses = dict[UseKey, Use]


@dataclass
class _Subtree:
    """What is known about a relation and its inputs.

    :param named: it reads something whose content may change.
    :param ordinals: numbers of a function's uses, by accumulator and function, and by the function's arguments.
    """

    uses: Uses = field(default_factory=dict)
    partitioned: bool = False
    branches: int = 0
    named: bool = False
    several: bool = False
    ordinals: dict[tuple[str, bytes], dict[bytes, int]] = field(default_factory=dict)


class UseFinder:
    """Finds the uses of a session's accumulators, also by the names of views and functions that it has registered."""

    def __init__(self) -> None:
        self._views: dict[str, Uses] = {}
        self._functions: dict[str, Uses] = {}
        # Relations that are cached, as bytes, and an id for each time.
        self._cached: dict[bytes, str] = {}
        self._times = 0
        self.caches_by_name = False

    def identify(self, request: Any) -> tuple[Any, Uses]:
        """Return a request with the nonces replaced, and the uses that it contains.

        A nonce is made of the function's own pickle, and of a number if one path through the query has several uses
        of the function with different arguments. So a DataFrame has the same functions each time it is used, and Spark
        finds what it has cached.
        """
        data = request.SerializeToString()
        if PREFIX.encode() not in data and not (self._views or self._functions or self._cached):
            return request, {}
        self.caches_by_name |= bool(self._views) and b"cache" in data.lower()
        copied = type(request)()
        # Parsing it again would fail for deep plans.
        copied.CopyFrom(request)
        try:
            read = self._read(copied)
            self._remember(copied, read)
        except RecursionError:
            return request, {}
        uses = read.uses
        if read.named:
            uses = {key: replace(use, hidden=True) for key, use in uses.items()}
        return copied, uses

    def _read(self, message: Any) -> _Subtree:
        """Read a relation, or a whole request."""
        children: list[Any] = []
        tokens: list[_Token] = []
        texts: list[str] = []
        _collect(message, children, tokens, texts)
        kind = _kind_of(message)
        result = _Subtree()
        for index, child in enumerate(children):
            subtree = self._read(child)
            if kind == "with_relations" and index:
                subtree.uses = {key: _referred(use, child, children[0]) for key, use in subtree.uses.items()}
            _add_branch(result, subtree, is_union=kind == "union")
        result.partitioned |= kind in _PARTITIONING
        result.branches += kind in _BRANCHING
        result.named |= kind in _NAMED
        # A view may contain `coalesce`. Spark moves conditions below it.
        result.several |= _coalesces(kind, message) or kind == "sql" or (kind == "union" and result.partitioned)
        result.several |= kind == "read" and message.read.HasField("named_table")
        result.uses = {key: _above(use, kind, message) for key, use in result.uses.items()}
        here: Uses = {}
        places = {(token.accumulator, token.pickled, token.place): token for token in tokens}
        for token in tokens:
            known = result.ordinals.setdefault((token.accumulator, token.pickled), {})
            ordinal = known.setdefault(token.arguments, max(known.values(), default=-1) + 1)
            nonce = hashlib.blake2b(token.pickled, digest_size=12).hexdigest() + f"{ordinal:08x}"
            token.replace_nonce(nonce)
            if token in places.values():
                use = Use(
                    filtered=kind in _CONDITIONS,
                    narrowed=kind not in _WHOLE,
                    partitioned=result.partitioned,
                    branches=result.branches,
                    several=result.several,
                )
                found = here.get((token.accumulator, nonce))
                here[token.accumulator, nonce] = _chained(found, use) if found else use
        for key, use in [*here.items(), *(item for text in texts for item in self._uses_by_name(text, kind, result))]:
            result.uses[key] = _chained(result.uses[key], use) if key in result.uses else use
        if self._cached and kind and (cached := self._cached.get(message.SerializeToString())):
            result.uses = {key: replace(use, cached=cached, moved=False) for key, use in result.uses.items()}
        return result

    def _uses_by_name(self, text: str, kind: str, result: _Subtree) -> Iterator[tuple[UseKey, Use]]:
        lower = text.lower()
        found = [(uses, _times_in(text, name)) for name, uses in self._views.items() if name.lower() in lower]
        for name, uses in self._functions.items() if "(" in text or text in self._functions else ():
            if name.lower() not in lower:
                continue
            calls = [text] if text == name else re.split(_call_of(name), text)[:-1]
            filtered = kind in _CONDITIONS or any(map(_ends_in_condition, calls))
            changes: dict[str, Any] = {"filtered": filtered, "branches": result.branches}
            changes |= {"partitioned": result.partitioned, "several": result.several}
            found.append(({key: replace(use, **changes) for key, use in uses.items()}, len(calls)))
        for uses, times in found:
            for key, use in uses.items() if times else ():
                yield key, _in_text(use, text, times) if kind in ("sql", "") else _times(use, times)

    def _remember(self, request: Any, read: _Subtree) -> None:
        """Remember what the server keeps: cached DataFrames, and views and functions by name."""
        kind = request.DESCRIPTOR.name
        if kind == "AnalyzePlanRequest":
            analyze = request.WhichOneof("analyze")
            if analyze == "persist" and read.uses:
                # What is read by name may have other contents the next time.
                if not read.named:
                    self._times += 1
                    self._cached.setdefault(request.persist.relation.SerializeToString(), str(self._times))
            elif analyze == "unpersist":
                self._cached.clear()
        elif kind == "ExecutePlanRequest":
            command = request.plan.command
            name = command.WhichOneof("command_type")
            # Views, catalogs and SQL may drop what is cached.
            if name not in (None, "write_operation", "write_operation_v2") or read.named:
                self._cached.clear()
            if name == "create_dataframe_view":
                uses = {key: replace(use, cached=None) for key, use in read.uses.items()}
                self._views[command.create_dataframe_view.name] = uses
            elif name in ("register_function", "register_table_function"):
                self._functions[getattr(command, name).function_name] = read.uses


@dataclass(frozen=True, eq=False)
class _Token:
    """A pickled function in a request that contains an accumulator.

    :param pickled: the function, without nonces.
    :param arguments: the expressions that it is applied to, without what differs each time a plan is made.
    :param place: the same with it: columns of two DataFrames may have the same name.
    """

    message: Any
    field: str
    accumulator: str
    pickled: bytes
    arguments: bytes = b""
    place: bytes = b""

    def replace_nonce(self, nonce: str) -> None:
        prefix = f"{PREFIX}:{self.accumulator}:".encode()
        pickled: bytes = getattr(self.message, self.field)
        setattr(self.message, self.field, re.sub(prefix + b"[0-9a-f]{32}", prefix + nonce.encode(), pickled))


def _kind_of(message: Any) -> str:
    """Return the type of a relation; an empty string for other messages."""
    if message.DESCRIPTOR.name != "Relation":
        return ""
    kind: str = message.WhichOneof("rel_type") or ""
    return "union" if kind == "set_op" and message.set_op.set_op_type == _UNION else kind


def _collect(message: Any, children: list[Any], tokens: list[_Token], texts: list[str]) -> None:
    """Collect the inputs of a relation, the accumulators in its own expressions, and its strings."""
    for descriptor, value in message.ListFields():
        for each in _items(value):
            if isinstance(each, bytes):
                # The same function is another one if Spark calls it in another way.
                pickled = (
                    _TOKEN.sub(lambda match: match[0][:-32], each) + str(getattr(message, "eval_type", "")).encode()
                )
                found = {match[1].decode(): None for match in _TOKEN.finditer(each)}
                tokens += [_Token(message, descriptor.name, accumulator, pickled) for accumulator in found]
            elif isinstance(each, str):
                if message.DESCRIPTOR.name not in _CALLS:
                    texts.append(each)
            elif hasattr(each, "ListFields"):
                if each.DESCRIPTOR.name == "Relation":
                    children.append(each)
                    continue
                start = len(tokens)
                _collect(each, children, tokens, texts)
                if message.DESCRIPTOR.name in _CALLS and descriptor.name != "arguments":
                    arguments = b"\0".join(_TOKEN.sub(b"", _plain(argument)) for argument in message.arguments)
                    place = b"\0".join(_TOKEN.sub(b"", argument.SerializeToString()) for argument in message.arguments)
                    tokens[start:] = [replace(each, arguments=arguments, place=place) for each in tokens[start:]]


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, (bytes, str)) or not hasattr(value, "__len__"):
        return (value,)
    found: Iterable[Any] = value.values() if hasattr(value, "values") else value
    return found


def _add_branch(result: _Subtree, subtree: _Subtree, *, is_union: bool) -> None:
    result.partitioned |= subtree.partitioned
    result.branches += subtree.branches
    result.named |= subtree.named
    result.several |= subtree.several
    for key, use in subtree.uses.items():
        found = result.uses.get(key)
        result.uses[key] = _beside(found, use, is_union=is_union) if found else use
    for function, known in subtree.ordinals.items():
        merged = result.ordinals.setdefault(function, {})
        merged |= {arguments: max(ordinal, merged.get(arguments, 0)) for arguments, ordinal in known.items()}


def _beside(left: Use, right: Use, *, is_union: bool) -> Use:
    """Return a use in two branches of a query."""
    use = _with_flags(left, right)
    return replace(
        use,
        places=left.places + right.places,
        joined=use.joined or not is_union,
        several=use.several or (is_union and use.partitioned),
        cached=left.cached if left.cached == right.cached else None,
    )


def _chained(below: Use, above: Use) -> Use:
    """Return the use of a function that stands in a relation and in its inputs."""
    return replace(_with_flags(below, above), places=below.places + above.places, chained=True, cached=None)


def _with_flags(use: Use, other: Use) -> Use:
    names = ("chained", "joined", "several", "hidden", "narrowed", "moved", "filtered", "partitioned")
    changes: dict[str, Any] = {name: getattr(use, name) or getattr(other, name) for name in names}
    changes |= {name: max(getattr(use, name), getattr(other, name)) for name in ("joins", "wide_joins", "branches")}
    return replace(use, **changes, known=use.known and other.known)


def _times(use: Use, times: int) -> Use:
    return replace(use, places=use.places * times, chained=use.chained or times > 1)


def _above(use: Use, kind: str, relation: Any) -> Use:
    """Return a use below a relation, as it is above it."""
    coalesces = _coalesces(kind, relation)
    columns = 2 * (kind in _JOINS)
    if kind == "join":
        columns = len(relation.join.using_columns) + 2 * relation.join.HasField("join_condition")
    return replace(
        use,
        several=use.several or coalesces,
        joins=use.joins + (columns == 1),
        wide_joins=use.wide_joins + (columns > 1),
        filtered=use.filtered or kind not in _WHOLE | _JOINS,
        narrowed=use.narrowed or kind not in _WHOLE,
        moved=use.moved or coalesces or kind in _BRANCHING,
    )


def _coalesces(kind: str, relation: Any) -> bool:
    return bool(
        (kind == "repartition" and not relation.repartition.shuffle)
        or (kind == "hint" and relation.hint.name.lower() == "coalesce")
    )


def _referred(use: Use, relation: Any, root: Any) -> Use:
    """Return a use in a DataFrame that a query refers to: as an argument of SQL, or as a subquery."""
    if root.WhichOneof("rel_type") == "sql":
        return _in_text(use, root.sql.query, _times_in(root.sql.query, relation.subquery_alias.alias))
    return _times(use, max(1, _subqueries_of(root, relation.common.plan_id)))


def _in_text(use: Use, text: str, times: int) -> Use:
    """Return a use in something that SQL names so many times."""
    words = _words(text)
    return replace(
        _times(use, times),
        # A common table expression may be used several times, and a statement may run several times.
        known=use.known and not words & _REPEATING and text.lower().count("insert") < 2,
        several=use.several or bool(words & {"coalesce", "union"}),
        joins=use.joins + _joins_in(text),
        branches=use.branches + text.lower().count("union"),
        filtered=use.filtered
        or bool(words & {"where", "having", "distinct", "limit", "explode", "lateral"})
        or ("on" in words and bool(words & {"and", "or", "in"})),
        narrowed=True,
        moved=True,
    )


def _joins_in(text: str) -> int:
    """Return how many joins there may be in SQL, also as subqueries and as lists of tables."""
    text = text.lower()
    tables = re.findall(r"\bfrom\b(.*?)(?=\b(?:where|group|order|having|select|limit|union)\b|$)", text, re.DOTALL)
    commas: int = sum(each.count(",") for each in tables)
    return commas + len(re.findall(r"\b(?:join|in|exists|intersect|except)\b", text))


def _times_in(text: str, name: str) -> int:
    return len(re.findall(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE))


def _call_of(function: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(function)}\s*\(", re.IGNORECASE)


def _ends_in_condition(text: str) -> bool:
    """Return whether SQL that follows this text is in a condition."""
    clauses = re.findall(r"\b(?:select|from|by|where|on|having)\b", text.lower())
    return bool(clauses) and clauses[-1] in _CLAUSES


def _words(text: str) -> set[str]:
    return {*re.findall(r"\w+", text.lower())}


def _subqueries_of(message: Any, plan_id: int) -> int:
    """Return how often an expression refers to a relation."""
    found = int(message.DESCRIPTOR.name == "SubqueryExpression" and message.plan_id == plan_id)
    inner = [each for _, value in message.ListFields() for each in _items(value) if hasattr(each, "ListFields")]
    return found + sum(_subqueries_of(each, plan_id) for each in inner)


def _plain(message: Any) -> bytes:
    """Return a message as bytes, without what differs each time it is made."""
    copied = type(message)()
    copied.CopyFrom(message)
    _clear(copied)
    plain: bytes = copied.SerializeToString(deterministic=True)
    return plain


def _clear(message: Any) -> None:
    for descriptor, value in message.ListFields():
        if descriptor.name in _VOLATILE:
            message.ClearField(descriptor.name)
            continue
        for each in _items(value):
            if hasattr(each, "ListFields"):
                _clear(each)

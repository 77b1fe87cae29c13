"""Finds where a request uses accumulators, and gives each use an identity that does not change what Spark caches."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from airflow_provider_sparkdeps.spark.accumulators.plan import Plan

PREFIX = "sparkdeps-accumulator"
_TOKEN = re.compile(rf"{PREFIX}:([0-9a-f]{{32}}):([0-9a-f]{{32}})".encode())
_UNION = 2
# SQL that may run or use something several times.
_REPEATING = frozenset(("with", "begin", "while", "loop", "repeat", "for"))
# Fields that differ each time a plan is made: they say nothing about its meaning.
_VOLATILE = frozenset(("common", "plan_id"))
_JOINS = frozenset(("join", "lateral_join", "as_of_join", "nearest_by_join", "set_op", "with_relations"))
_BRANCHING = _JOINS | {"co_group_map", "union", "zip"}
# Relations that read one input, and nothing by name.
_LEAVES = frozenset(("range", "local_relation", "cached_local_relation", "chunked_cached_local_relation"))
_FILES = frozenset(("", "parquet", "orc", "csv", "json", "text"))
# Relations that need all rows and columns of their input.
_WHOLE = frozenset(
    (
        *("", "project", "with_columns", "with_columns_renamed", "drop", "to_df", "to_schema", "subquery_alias"),
        *("map_partitions", "collect_metrics", "hint", "repartition", "repartition_by_expression", "sort", "union"),
        *("with_relations", "sql"),
    )
)
# Relations that Spark computes when a query is run, and not when it is planned.
_LAZY = (_WHOLE | _BRANCHING | _LEAVES | {"read", "cached_remote_relation"}) - {"zip", "nearest_by_join"} | frozenset(
    (
        *("filter", "aggregate", "deduplicate", "limit", "offset", "tail", "sample", "unpivot", "group_map"),
        *("drop_na", "fill_na", "replace", "common_inline_user_defined_table_function"),
    )
)
# Functions that make several rows of one, and a condition: their argument is not empty.
_GENERATORS = re.compile(r"explode|inline|stack|json_tuple|^window$", re.IGNORECASE)
# Text that a plan shows as it is, and that looks like a part of the plan: the start of an operator, the end of a call.
_MISLEADING = re.compile(r"[+:]- \w|\)#\d")
_MAY_MISLEAD = re.compile(_MISLEADING.pattern.encode())
# Methods of columns that are functions, but not functions of PySpark.
_OPERATORS = frozenset(("and", "or", "not", "in", "isNull", "isNotNull"))
# SQL that defines something that may contain functions of the session by name.
_DEFINITIONS = frozenset(("view", "function"))
_CALLS = frozenset(("CommonInlineUserDefinedFunction", "CommonInlineUserDefinedTableFunction"))

UseKey = tuple[str, str]
"""The id of an accumulator, and the nonce of a use."""


@dataclass(frozen=True)
class Use:
    """What a query says about the use of an accumulator.

    :param places: how often the function stands in the query.
    :param known: False if it may be more often: in a common table expression, or in views that SQL defines.
    :param copied: Spark may evaluate it for other rows than those of its places. It may move it to inputs of a join or
        union below it, or of something that is read by name, and copy a condition to the other side of a join above it.
    :param several: a task may compute several partitions, as after `coalesce`.
    :param narrowed: only some of its rows may be needed, as below a filter or a join. Spark may evaluate it twice then.
    :param crossed: a join may evaluate each partition several times.
    :param apart: no task evaluates it for rows of several places.
    :param repeats_samples: what Spark evaluates for the sample of a sort is evaluated again after it.
    :param planned: the plan of the query was looked at.
    :param cached: the cached DataFrame that the query is.
    :param functions: names under which Spark shows the function in the plan; empty if it can't be asked for it.
    """

    places: int = 1
    known: bool = True
    copied: bool = False
    several: bool = False
    narrowed: bool = False
    crossed: bool = False
    apart: bool = False
    repeats_samples: bool = False
    planned: bool = False
    cached: str | None = None
    functions: frozenset[str] = frozenset()

    @property
    def is_once(self) -> bool:
        """Whether all its evaluations in an operation are of the rows of one place, so that each row counts once.

        If a task computes several partitions, it may evaluate a filter for each one and its column for all together,
        which only the plan tells.
        """
        is_alike = self.planned or not (self.several and self.narrowed)
        return self.known and self.places == 1 and not self.copied and is_alike

    @property
    def needs_plan(self) -> bool:
        """Whether Spark may evaluate it several times, and only its plan tells whether this is for the same rows."""
        return not self.is_once and bool(self.functions)

    def with_plan(self, plan: Plan) -> Use:
        """Return what is known if this is the plan of the query."""
        return replace(
            self,
            planned=True,
            copied=not plan.evaluates_once(self.functions),
            apart=plan.keeps_apart(self.functions, coalesced=self.several),
            # A write to a table may sort the rows, which the plan does not show.
            repeats_samples=plan.repeats_samples(self.functions if self.known and not self.several else ()),
            several=self.several or plan.coalesces,
            crossed=plan.crosses,
        )


Uses = dict[UseKey, Use]


@dataclass
class _Subtree:
    """What is known about a relation and its inputs.

    :param branches: it has several inputs, or reads something by name, which may have several, or a row of its input
        may become several rows. Text may contain a subquery, which is a join, or call a function that contains one.
    :param named: it reads something whose content may change.
    :param checkpoints: it reads checkpoints.
    :param eager: Spark computes some of it before it makes a plan.
    :param ordinals: numbers of a function's uses, by accumulator and function, and by the function's arguments.
    """

    uses: Uses = field(default_factory=dict)
    branches: bool = False
    named: bool = False
    checkpoints: bool = False
    eager: bool = False
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
        self._defines = False
        self._misleads = False
        self.kept: set[UseKey] = set()
        """Uses in DataFrames that Spark may keep, so that it samples them without evaluating them again."""

    def identify(self, request: Any) -> tuple[Any, Uses]:
        """Return a request with the nonces replaced, and the uses that it contains.

        A nonce is made of the function's own pickle, and of a number if one path through the query has several uses
        of the function with different arguments. So a DataFrame has the same functions each time it is used, and Spark
        finds what it has cached.
        """
        data = request.SerializeToString()
        # Views keep their text.
        if not self._misleads and _MAY_MISLEAD.search(data):
            self._misleads = any(map(_MISLEADING.search, _texts_of(request)))
        if PREFIX.encode() not in data and not (self._views or self._functions or self._cached):
            return request, {}
        copied = type(request)()
        # Parsing it again would fail for deep plans.
        copied.CopyFrom(request)
        try:
            read = self._read(copied)
            self._remember(copied, read)
        except RecursionError:
            return request, {}
        uses = read.uses
        # Views that SQL defines, and checkpoints, may contain more places.
        hidden = {*self._by_name()} if self._defines else set()
        hidden |= self.kept if read.checkpoints else set()
        uses = {key: replace(use, known=use.known and key not in hidden) for key, use in uses.items()}
        if query := query_of(copied):
            several = _is_coalesced(copied.plan.command)
            cached = self._cached.get(query.SerializeToString())
            uses = {key: replace(use, cached=cached, several=use.several or several) for key, use in uses.items()}
        if read.eager or self._misleads:
            uses = {key: replace(use, functions=frozenset()) for key, use in uses.items()}
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
            _add_branch(result, subtree)
        if kind and not children:
            _set_leaf(result, kind, message)
        generates = kind == "unpivot" or any(map(_GENERATORS.search, texts))
        registered = {*map(str.lower, self._functions)}
        calls = any("(" in text or text.lower() in registered for text in texts)
        result.branches |= kind in _BRANCHING or generates or calls
        result.eager |= kind not in _LAZY or (kind == "aggregate" and message.aggregate.HasField("pivot"))
        if (kind == "sql" and "cache" in message.sql.query.lower()) or kind == "catalog":
            # A view may be cached by its name.
            self.kept |= {*self._by_name()}
        result.checkpoints |= kind == "cached_remote_relation"
        if kind == "sql":
            self._defines = self._defines or bool(_DEFINITIONS & _words(message.sql.query))
        result.several |= _coalesces(kind, message)
        result.uses = {
            key: _above(use, kind, message, generates=generates, calls=calls) for key, use in result.uses.items()
        }
        here: Uses = {}
        places = {(token.accumulator, token.pickled, token.place): token for token in tokens}
        for token in tokens:
            known = result.ordinals.setdefault((token.accumulator, token.pickled), {})
            ordinal = known.setdefault(token.arguments, max(known.values(), default=-1) + 1)
            nonce = hashlib.blake2b(token.pickled, digest_size=12).hexdigest() + f"{ordinal:08x}"
            token.replace_nonce(nonce)
            if token in places.values():
                use = _use_in(result, kind, token.function, narrows=generates or calls)
                found = here.get((token.accumulator, nonce))
                here[token.accumulator, nonce] = _beside(found, use) if found else use
        named = (item for text in texts for item in self._uses_by_name(text, result))
        for key, use in [*here.items(), *named]:
            result.uses[key] = _beside(result.uses[key], use) if key in result.uses else use
        return result

    def _uses_by_name(self, text: str, result: _Subtree) -> Iterator[tuple[UseKey, Use]]:
        lower = text.lower()
        found = [(uses, _times_in(text, name)) for name, uses in self._views.items() if name.lower() in lower]
        for name, uses in self._functions.items():
            if name.lower() not in lower:
                continue
            calls = len(re.findall(rf"(?<!\w){re.escape(name)}\s*\(", text, re.IGNORECASE))
            times = calls or int(name.lower() == lower)
            use = Use(several=result.several, functions=frozenset((name,)))
            found.append((dict.fromkeys(uses, use), times))
        for uses, times in found:
            for key, use in uses.items() if times else ():
                yield key, _in_text(use, text, times)

    def _by_name(self) -> Iterator[UseKey]:
        for uses in (*self._views.values(), *self._functions.values()):
            yield from uses

    def _remember(self, request: Any, read: _Subtree) -> None:
        """Remember what the server keeps: cached DataFrames, and views and functions by name."""
        kind = request.DESCRIPTOR.name
        if kind == "AnalyzePlanRequest":
            analyze = request.WhichOneof("analyze")
            if analyze == "persist" and read.uses:
                self.kept |= read.uses.keys()
                level = request.persist.storage_level
                is_kept = level.use_memory or level.use_disk or not request.persist.HasField("storage_level")
                # What is read by name may have other contents the next time.
                if is_kept and not read.named:
                    self._times += 1
                    self._cached.setdefault(request.persist.relation.SerializeToString(), str(self._times))
            elif analyze == "unpersist":
                self._cached.clear()
        elif kind == "ConfigRequest":
            # With other settings, Spark may not find what it has cached.
            if request.operation.WhichOneof("op_type") in ("set", "unset"):
                self._cached.clear()
        elif kind == "ExecutePlanRequest":
            command = request.plan.command
            name = command.WhichOneof("command_type")
            is_write = name in (None, "write_operation", "write_operation_v2")
            if name == "checkpoint_command":
                self.kept |= read.uses.keys()
            # Views, catalogs and SQL may drop what is cached.
            if not is_write or read.named:
                self._cached.clear()
            if name == "create_dataframe_view":
                self._views[command.create_dataframe_view.name] = read.uses
            elif name in ("register_function", "register_table_function"):
                self._functions[getattr(command, name).function_name] = read.uses


@dataclass(frozen=True, eq=False)
class _Token:
    """A pickled function in a request that contains an accumulator.

    :param pickled: the function, without nonces.
    :param function: its name.
    :param arguments: the expressions that it is applied to, without what differs each time a plan is made.
    :param place: the same with it: columns of two DataFrames may have the same name.
    """

    message: Any
    field: str
    accumulator: str
    pickled: bytes
    function: str = ""
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
                    texts.append(f"{each}(" if _calls_by_name(message, each) else each)
            elif hasattr(each, "ListFields"):
                if each.DESCRIPTOR.name == "Relation":
                    children.append(each)
                    continue
                start = len(tokens)
                _collect(each, children, tokens, texts)
                if message.DESCRIPTOR.name in _CALLS and descriptor.name != "arguments":
                    arguments = b"\0".join(_TOKEN.sub(b"", _plain(argument)) for argument in message.arguments)
                    place = b"\0".join(_TOKEN.sub(b"", argument.SerializeToString()) for argument in message.arguments)
                    tokens[start:] = [
                        replace(each, function=message.function_name, arguments=arguments, place=place)
                        for each in tokens[start:]
                    ]


def _texts_of(message: Any) -> Iterator[str]:
    """Yield all strings in a message."""
    waiting = [message]
    while waiting:
        for _, value in waiting.pop().ListFields():
            for each in _items(value):
                if isinstance(each, str):
                    yield each
                elif hasattr(each, "ListFields"):
                    waiting.append(each)


def _calls_by_name(message: Any, text: str) -> bool:
    """Return whether a text is the name of a function that an expression calls, and not of one of PySpark's own."""
    from pyspark.sql.connect import functions

    kind = message.DESCRIPTOR.name
    is_own = not text.isidentifier() or text in _OPERATORS or hasattr(functions, text)
    return kind == "CallFunction" or (kind == "UnresolvedFunction" and not is_own)


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, (bytes, str)) or not hasattr(value, "__len__"):
        return (value,)
    found: Iterable[Any] = value.values() if hasattr(value, "values") else value
    return found


def _set_leaf(result: _Subtree, kind: str, message: Any) -> None:
    """Say what is known of a relation that has no inputs."""
    is_batch = kind == "read" and not message.read.is_streaming
    is_file = is_batch and message.read.HasField("data_source") and message.read.data_source.format.lower() in _FILES
    result.named = kind not in _LEAVES
    result.branches = result.named and not is_file


def _use_in(result: _Subtree, kind: str, function: str, *, narrows: bool) -> Use:
    """Return the use of a function that stands in a relation with these inputs."""
    return Use(
        copied=result.branches or kind in _JOINS,
        several=result.several,
        narrowed=narrows or kind not in _WHOLE,
        functions=frozenset((function,)),
    )


def _add_branch(result: _Subtree, subtree: _Subtree) -> None:
    result.branches |= subtree.branches
    result.named |= subtree.named
    result.checkpoints |= subtree.checkpoints
    result.eager |= subtree.eager
    result.several |= subtree.several
    for key, use in subtree.uses.items():
        found = result.uses.get(key)
        result.uses[key] = _beside(found, use) if found else use
    for function, known in subtree.ordinals.items():
        merged = result.ordinals.setdefault(function, {})
        merged |= {arguments: max(ordinal, merged.get(arguments, 0)) for arguments, ordinal in known.items()}


def _beside(left: Use, right: Use) -> Use:
    """Return a use in two places of a query."""
    flags = ("copied", "several", "narrowed")
    changes: dict[str, Any] = {name: getattr(left, name) or getattr(right, name) for name in flags}
    changes |= {"known": left.known and right.known, "places": left.places + right.places}
    return replace(left, **changes, functions=left.functions | right.functions)


def _times(use: Use, times: int) -> Use:
    return replace(use, places=use.places * times)


def _above(use: Use, kind: str, relation: Any, *, generates: bool, calls: bool) -> Use:
    """Return a use below a relation, as it is above it."""
    return replace(
        use,
        copied=use.copied or kind in _JOINS or calls,
        several=use.several or _coalesces(kind, relation),
        narrowed=use.narrowed or generates or calls or kind not in _WHOLE,
    )


def _coalesces(kind: str, relation: Any) -> bool:
    return bool(
        (kind == "repartition" and not relation.repartition.shuffle)
        or (kind == "hint" and relation.hint.name.lower() == "coalesce")
    )


def _referred(use: Use, relation: Any, root: Any) -> Use:
    """Return a use in a DataFrame that a query refers to: as an argument of SQL, or as a subquery."""
    if root.WhichOneof("rel_type") != "sql":
        return _times(use, max(1, _subqueries_of(root, relation.common.plan_id)))
    return _in_text(use, root.sql.query, _times_in(root.sql.query, relation.subquery_alias.alias))


def _in_text(use: Use, text: str, times: int) -> Use:
    """Return a use in something that SQL names so many times."""
    words = _words(text)
    return replace(
        _times(use, times),
        # A common table expression may be used several times, and a statement may run several times.
        known=use.known and not words & _REPEATING and text.lower().count("insert") < 2,
        copied=True,
        narrowed=True,
    )


def _times_in(text: str, name: str) -> int:
    return len(re.findall(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE))


def _words(text: str) -> set[str]:
    return {*re.findall(r"\w+", text.lower())}


def query_of(request: Any) -> Any:
    """Return the query that a request runs, writes, streams or checkpoints, as a relation; else None."""
    if request.DESCRIPTOR.name != "ExecutePlanRequest":
        return None
    command = request.plan.command
    for name in ("write_operation", "write_operation_v2", "write_stream_operation_start"):
        if command.HasField(name):
            return getattr(command, name).input
    if command.HasField("checkpoint_command"):
        return command.checkpoint_command.relation
    return request.plan.root if request.plan.HasField("root") else None


def _is_coalesced(command: Any) -> bool:
    """Return whether what a query writes may be coalesced, which its plan does not show.

    JDBC and other sources that are not Spark's own may do so, and what a table is stored in is not known here.
    """
    if command.HasField("write_operation"):
        write = command.write_operation
        return write.HasField("table") or write.source.lower() not in _FILES | {"noop"}
    return bool(command.HasField("write_operation_v2"))


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

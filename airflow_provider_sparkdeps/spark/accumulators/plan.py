"""Reads Spark's explanation of a query, which says where its functions stand in the plan that is run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import combinations, pairwise

# A line of the tree: the branches of its ancestors, its own, whether Java code was generated for it, and its text.
_LINE = re.compile(r"((?:[: ]  )*)([+:]- )?(?:\*(?:\(\d+\))? )?(\w.*)")
# Operators that give each row of their input at most once.
_KEEPING = frozenset(
    (
        *("Project", "Filter", "Sort", "Exchange", "BatchEvalPython", "ArrowEvalPython", "Window"),
        *("HashAggregate", "ObjectHashAggregate", "SortAggregate"),
    )
)
# What is cached may have a plan of its own below it, which is adaptive or not.
_ADAPTIVE = "AdaptiveSparkPlan"
_CACHE = "InMemoryTableScan"
# Operators whose input is computed in tasks of its own.
_EXCHANGE = re.compile(r"(?:Broadcast)?Exchange")
_APART = re.compile(rf"{_EXCHANGE.pattern}|Subquery\w*")
_SUBQUERY = re.compile(r"(?:Reused)?Subquery\w*")
# An exchange that samples its input, to find the ranges of a sort.
_SAMPLING = re.compile(r"Exchange rangepartitioning\(")
# Inputs whose partitions belong together with those of no other input.
_UNARRANGED = re.compile(
    r"Range \(.*splits=(?!1\))\d+\)|FileScan (?!.*(?:Bucket| more fields)).*|(?:BroadcastExchange|Subquery\w*)\b.*"
)
# Operators that run several functions. Spark shortens lists of more than `spark.sql.debug.maxToStringFields`.
_SEVERAL = re.compile(r"\w*(?:Eval|Aggregate|Window)\w*")
# The end of a call: the id of the result, and the suffix of its type.
_RESULT = re.compile(r"\)#(\d+)\w*(?=[,\]) ]|$)")
# Operators of which a task computes several partitions of the input, one after the other.
_COALESCING = frozenset(("Coalesce", "GroupPartitions"))
# How Spark shows what it leaves out: settings limit the length of a plan, and hide what matches an expression.
_HIDDEN = re.compile(r"\.\.\. \d+ more characters$|\(redacted\)")


class Plan:
    """A physical plan, as a tree of operators.

    :param explanation: what `DataFrame.explain` prints.
    """

    def __init__(self, explanation: str) -> None:
        lines = explanation.strip().splitlines()
        self._operators: list[str] = []
        # The operator above each one, -1 for the root. Operators come before their inputs.
        self._above: list[int] = []
        self._inputs: dict[int, list[int]] = {}
        path: list[tuple[int, int]] = []
        is_whole = lines[:1] == ["== Physical Plan =="] and not _HIDDEN.search(explanation.strip())
        self._is_known = is_whole and len(lines) > 1
        # Each batch of a stream has a plan of its own.
        self._is_for_batches = "StreamingRelation" in explanation
        for number, line in enumerate(lines[1:]):
            match = _LINE.fullmatch(line)
            if match is None or bool(match[2]) != bool(number):
                self._is_known = False
                return
            depth = len(match[1]) // 3 + bool(number)
            while path and path[-1][0] >= depth:
                path.pop()
            self._operators.append(match[3])
            self._above.append(path[-1][1] if path else -1)
            self._inputs.setdefault(self._above[-1], []).append(number)
            path.append((depth, number))

    @property
    def coalesces(self) -> bool:
        """Whether a task may compute several partitions, one after the other."""
        return not self._is_known or not _COALESCING.isdisjoint(map(_name_of, self._operators))

    @property
    def crosses(self) -> bool:
        """Whether tasks may compute each partition several times."""
        return not self._is_known or "CartesianProduct" in map(_name_of, self._operators)

    def evaluates_once(self, functions: Iterable[str]) -> bool:
        """Return whether all evaluations of a function's result are of the same rows, or of some of them.

        That is so if all its places are of one expression and on one path, and no operator between them multiplies
        rows. False, if it is not known.

        :param functions: the names of the function. Places of other functions of these names are looked at as well.
        """
        places = self._places_of(functions)
        # Spark copies an expression with the id of its result.
        return len({result for _, result in places}) == 1 and all(
            self._keeps(low, high) for (high, _), (low, _) in pairwise(places)
        )

    def keeps_apart(self, functions: Iterable[str], *, coalesced: bool = False) -> bool:
        """Return whether all evaluations of a function in one task are of the same rows, or of some of them.

        :param functions: as for `evaluates_once`.
        :param coalesced: a task may compute several partitions of what the plan shows.
        """
        places = self._places_of(functions)
        tasks = self._tasks()
        if self._is_for_batches or not places:
            return False
        return all(
            (result == other and self._keeps(low, high))
            if self._is_above(high, low)
            else tasks[high] != tasks[low] or (not coalesced and self._separates(self._common(high, low)))
            for (high, result), (low, other) in combinations(places, 2)
        )

    def repeats_samples(self, functions: Iterable[str]) -> bool:
        """Return whether all that Spark evaluates of a function in the sample of a sort is evaluated again after it.

        What is below an exchange that samples runs in the same job. With adaptive execution, it has run before.
        Subqueries, and broadcasts without adaptive execution, may run while an exchange is prepared, which looks alike.

        :param functions: as for `evaluates_once`; none, if not all are known.
        """
        names = {*map(_name_of, self._operators)}
        if not self._is_known or self._is_for_batches or any(map(_SUBQUERY.fullmatch, names)):
            return False
        if _name_of(self._operators[0]) == _ADAPTIVE:
            return True
        places = [number for number, _ in self._places_of(functions)]
        above = {self._operators[high] for low in places for high in self._above_task(low)}
        is_clear = names.isdisjoint(("ReusedExchange", "BroadcastExchange"))
        return bool(places) and is_clear and not any(map(_SAMPLING.match, above))

    def _places_of(self, functions: Iterable[str]) -> list[tuple[int, str]]:
        """Return operators that call a function, and the ids of the results; nothing if not all are known."""
        names = [*functions]
        places: list[tuple[int, str]] = []
        for number, text in enumerate(self._operators if self._is_known and all(names) else ()):
            if _SEVERAL.match(text) and " more fields" in text:
                return []
            places += [(number, result) for name in names for result in _results_of(name, text)]
        is_known = len({*places}) == len(places) and all(result for _, result in places)
        # Without what is cached now, Spark might move the function below it.
        caches = [number for number, text in enumerate(self._operators) if _name_of(text) == _CACHE]
        is_below = any(self._is_above(number, cache) for number, _ in places for cache in caches)
        return places if is_known and not is_below else []

    def _is_above(self, high: int, low: int) -> bool:
        while low > high:
            low = self._above[low]
        return low == high

    def _keeps(self, low: int, high: int) -> bool:
        """Return whether an operator is above another one, without one between them that multiplies rows."""
        number = self._above[low]
        while number > high:
            if _name_of(self._operators[number]) not in _KEEPING:
                return False
            number = self._above[number]
        return number == high

    def _tasks(self) -> list[int]:
        """Return a number for each operator: the same one for operators that may run in one task.

        Adaptive execution may leave out an exchange whose input has another one, or something that is cached: it makes
        a new plan when it knows how many rows that has. The others run first.
        """
        is_adaptive = _ADAPTIVE in map(_name_of, self._operators)
        cached = {number for number, text in enumerate(self._operators) if _name_of(text) == _CACHE}
        exchanges = {number for number, text in enumerate(self._operators) if _EXCHANGE.fullmatch(_name_of(text))}
        first = exchanges | cached if is_adaptive else set()
        late = {high for low in first for high in self._all_above(low) if high in exchanges}
        starts = {number for number, text in enumerate(self._operators) if _APART.fullmatch(_name_of(text))} - late
        tasks: list[int] = []
        for number, above in enumerate(self._above):
            tasks.append(number if above < 0 or above in starts else tasks[above])
        return tasks

    def _above_task(self, number: int) -> list[int]:
        """Return the operators above the nearest exchange, broadcast or subquery that is above an operator."""
        above = [*self._all_above(number)]
        starts = [index for index, each in enumerate(above) if _APART.fullmatch(_name_of(self._operators[each]))]
        return above[starts[0] + 1 :] if starts else []

    def _all_above(self, number: int) -> Iterator[int]:
        while (number := self._above[number]) >= 0:
            yield number

    def _common(self, one: int, other: int) -> int:
        """Return the lowest operator above both."""
        found = {*self._all_above(one)}
        return next(each for each in self._all_above(other) if each in found)

    def _separates(self, number: int) -> bool:
        """Return whether an operator is a union that computes each of its inputs in tasks of its own.

        It does so, unless its inputs are partitioned alike, or a task computes several partitions.
        """
        if _name_of(self._operators[number]) != "Union" or self.coalesces:
            return False
        waiting = [number]
        while waiting:
            each = waiting.pop()
            inputs = self._inputs.get(each, [])
            if not inputs or _APART.fullmatch(_name_of(self._operators[each])):
                if not _UNARRANGED.fullmatch(self._operators[each]):
                    return False
            else:
                waiting += inputs
        return True


def _name_of(operator: str) -> str:
    return operator.split(" ", 1)[0].split("(", 1)[0]


def _results_of(function: str, text: str) -> Iterator[str]:
    """Yield the id of the result for each call of a function, as in `f(id#1L)#2L`; an empty string if it has none."""
    for match in re.finditer(rf"(?<!\w){re.escape(function)}\(", text):
        depth, position = 1, match.end()
        while depth and position < len(text):
            depth += {"(": 1, ")": -1}.get(text[position], 0)
            position += 1
        result = _RESULT.match(text, position - 1)
        yield result[1] if result and not depth and text.count("(") == text.count(")") else ""

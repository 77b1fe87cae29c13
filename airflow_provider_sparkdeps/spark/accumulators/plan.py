"""Reads Spark's explanation of a query, which says where its functions stand in the plan that is run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

# A line of the tree: the branches of its ancestors, its own, whether Java code was generated for it, and its text.
_LINE = re.compile(r"((?:[: ]  )*)([+:]- )?(?:\*(?:\(\d+\))? )?(\w.*)")
# Operators that give each row of their input at most once.
_KEEPING = frozenset(
    (
        *("Project", "Filter", "Sort", "Exchange", "BatchEvalPython", "ArrowEvalPython", "Window"),
        *("HashAggregate", "ObjectHashAggregate", "SortAggregate"),
    )
)
# Operators that run several functions. Spark shortens lists of more than `spark.sql.debug.maxToStringFields`.
_SEVERAL = re.compile(r"\w*(?:Eval|Aggregate|Window)\w*")
_RESULT = re.compile(r"\)#\d+")


class Plan:
    """A physical plan, as a tree of operators.

    :param explanation: what `DataFrame.explain` prints.
    """

    def __init__(self, explanation: str) -> None:
        lines = explanation.strip().splitlines()
        # (number of the operator above it, or -1; text)
        self._operators: list[tuple[int, str]] = []
        path: list[tuple[int, int]] = []
        self._is_known = bool(lines) and lines[0] == "== Physical Plan =="
        for number, line in enumerate(lines[1:]):
            match = _LINE.fullmatch(line)
            if match is None or bool(match[2]) != bool(number):
                self._is_known = False
                return
            depth = len(match[1]) // 3
            while path and path[-1][0] >= depth + bool(number):
                path.pop()
            self._operators.append((path[-1][1] if path else -1, match[3]))
            path.append((depth + bool(number), number))

    @property
    def coalesces(self) -> bool:
        """Whether a task may compute several partitions."""
        return not self._is_known or any(_name_of(text) == "Coalesce" for _, text in self._operators)

    def evaluates_once(self, function: str) -> bool:
        """Return whether all evaluations of a function's result are of the same rows, or of some of them.

        That is so if all places of the same expression lie on one path, and no operator between them multiplies rows.
        False, if it is not known.

        :param function: the name of the function. Other functions may have it, too: they are looked at as well.
        """
        if not self._is_known:
            return False
        # Id of the result -> places. Spark copies an expression with its id.
        places: dict[str, list[int]] = {}
        for number, (_, text) in enumerate(self._operators):
            if _SEVERAL.match(text) and " more fields" in text:
                return False
            for result in _results_of(function, text):
                if not result or number in places.get(result, ()):
                    return False
                places.setdefault(result, []).append(number)
        # Operators are numbered from the root.
        return bool(places) and all(
            self._keeps(low, high) for found in places.values() for high, low in pairwise(found)
        )

    def _keeps(self, low: int, high: int) -> bool:
        """Return whether an operator is above another one, without one between them that multiplies rows."""
        number = self._operators[low][0]
        while number > high:
            parent, text = self._operators[number]
            if _name_of(text) not in _KEEPING:
                return False
            number = parent
        return number == high


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
        yield result[0] if result and not depth else ""

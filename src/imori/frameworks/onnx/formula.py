"""Numbers that are computed where a graph runs, as those that follow from a map's size: written as formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from onnx import helper

from imori.frameworks.onnx.graph import Graph

Number: TypeAlias = "Value | float"


class Formula:
    """Where the steps of a computation go: into a graph, numbered under one name."""

    def __init__(self, graph: Graph, name: str) -> None:
        self._graph, self._name, self._steps = graph, name, 0

    def _next(self) -> str:
        self._steps += 1
        return f"{self._name}-{self._steps}"

    def number(self, value: Any, dtype: str) -> Value:
        """A constant: one number, or an array."""
        return Value(self, self._graph.constant(value, dtype, self._next()), dtype)

    def given(self, name: str, dtype: str) -> Value:
        """A value that the graph has already."""
        return Value(self, name, dtype)

    def step(self, op: str, *inputs: Value, dtype: str, **attributes: Any) -> Value:
        """One operation."""
        made = self._graph.add(op, [each.name for each in inputs], self._next(), **attributes)
        return Value(self, made, dtype)

    def either(self, condition: Value, one: Callable[..., Value], other: Callable[..., Value], *values: Value) -> Value:
        """What `one` makes of the values where the condition holds, and `other` where not; just that is computed."""
        name, branches = self._next(), {}
        for word, make in (("then_branch", one), ("else_branch", other)):
            inside = Graph()
            f = Formula(inside, f"{name}-{word}")
            made = make(*(f.given(each.name, each.dtype) for each in values))
            output = helper.make_tensor_value_info(made.name, _element(made.dtype), None)
            branches[word] = helper.make_graph(inside.nodes, word, [], [output], inside.initializers)
        return self.given(self._graph.add("If", [condition.name], name, **branches), made.dtype)

    def length(self, x: Value, axis: int) -> Value:
        """How long x is along an axis, as one whole number."""
        return self.step("Squeeze", self.step("Shape", x, dtype="int64", start=axis, end=axis + 1), dtype="int64")

    def places(self, n: Value) -> Value:
        """0, 1, ... n - 1."""
        return self.step("Range", self.number(0, "int64"), n, self.number(1, "int64"), dtype="int64")


class Value:
    """What is computed so far. Operators work on two of one dtype, or on one and a Python number."""

    def __init__(self, formula: Formula, name: str, dtype: str) -> None:
        self._formula, self.name, self.dtype = formula, name, dtype

    def _with(self, op: str, other: Number, dtype: str = "") -> Value:
        two = other if isinstance(other, Value) else self._formula.number(other, self.dtype)
        return self._formula.step(op, self, two, dtype=dtype or self.dtype)

    def __add__(self, other: Number) -> Value:
        return self._with("Add", other)

    def __sub__(self, other: Number) -> Value:
        return self._with("Sub", other)

    def __rsub__(self, other: float) -> Value:
        return self._formula.number(other, self.dtype) - self

    def __mul__(self, other: Number) -> Value:
        return self._with("Mul", other)

    def __truediv__(self, other: Number) -> Value:
        """Of whole numbers from 0, rounded down."""
        return self._with("Div", other)

    def __matmul__(self, other: Value) -> Value:
        return self._with("MatMul", other)

    def __and__(self, other: Value) -> Value:
        return self._with("And", other)

    def __lt__(self, other: Number) -> Value:
        return self._with("Less", other, "bool")

    def __ge__(self, other: Number) -> Value:
        return self._with("GreaterOrEqual", other, "bool")

    def __le__(self, other: Number) -> Value:
        return self._with("LessOrEqual", other, "bool")

    def __gt__(self, other: Number) -> Value:
        return self._with("Greater", other, "bool")

    def at_least(self, other: Number) -> Value:
        """The larger of both."""
        return self._with("Max", other)

    def at_most(self, other: Number) -> Value:
        """The smaller of both."""
        return self._with("Min", other)

    def floor(self) -> Value:
        """Rounded down."""
        return self._formula.step("Floor", self, dtype=self.dtype)

    def rounded(self) -> Value:
        """To the nearest whole number, of two to the even one, as Python does."""
        return self._formula.step("Round", self, dtype=self.dtype)

    def opposite(self) -> Value:
        """Whether a condition does not hold."""
        return self._formula.step("Not", self, dtype=self.dtype)

    def absolute(self) -> Value:
        """Without its sign."""
        return self._formula.step("Abs", self, dtype=self.dtype)

    def sin(self) -> Value:
        """The sine."""
        return self._formula.step("Sin", self, dtype=self.dtype)

    def where(self, condition: Value, other: Number) -> Value:
        """Its own numbers where the condition holds, and the other's where not."""
        two = other if isinstance(other, Value) else self._formula.number(other, self.dtype)
        return self._formula.step("Where", condition, self, two, dtype=self.dtype)

    def transpose(self, *axes: int) -> Value:
        """Its axes in this order."""
        return self._formula.step("Transpose", self, dtype=self.dtype, perm=axes)

    def take(self, places: Value | list[int], axis: int) -> Value:
        """What is at these places along an axis."""
        chosen = places if isinstance(places, Value) else self._formula.number(places, "int64")
        return self._formula.step("Gather", self, chosen, dtype=self.dtype, axis=axis)

    def to(self, dtype: str) -> Value:
        """In another dtype; floats lose what is behind the point where that holds whole numbers."""
        return self._formula.step("Cast", self, dtype=dtype, to=_element(dtype))


def _element(dtype: str) -> int:
    """ONNX's number of a dtype."""
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))

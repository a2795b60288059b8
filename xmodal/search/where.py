"""Filters of rows: one SQL condition over the columns of their metadata.

    label = 'shirt' AND (width >= 224 OR caption LIKE '%red%') AND url IS NOT NULL

sqlglot parses the text, and each node of a known kind becomes a kernel of pyarrow.compute; every
other node is an error. No SQL engine runs. Values compare as in SQL: a comparison with a missing
value is neither true nor false. `label` is any of a row's labels.
"""

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from xmodal.components.validation import nearest
from xmodal.errors import UserError

Node = Any  # of sqlglot's tree: the class has another name in later versions
Mask = Callable[[pa.RecordBatch], pa.Array]  # of booleans; null is neither true nor false
Test = Callable[[pa.Array], pa.Array]  # of a column's values
LABELS = "labels"  # of which `label` is any
LONGEST = 2000  # characters
HINT = "use =, <>, <, <=, >, >=, BETWEEN, IN, LIKE, ILIKE, IS NULL, AND, OR, NOT and parentheses"

_COMPARISONS: dict[type, tuple[Callable, type]] = {
    exp.EQ: (pc.equal, exp.EQ),
    exp.NEQ: (pc.not_equal, exp.NEQ),
    exp.LT: (pc.less, exp.GT),  # with its mirror image: 3 < width is width > 3
    exp.LTE: (pc.less_equal, exp.GTE),
    exp.GT: (pc.greater, exp.LT),
    exp.GTE: (pc.greater_equal, exp.LTE),
}


def compile_where(text: str, schema: pa.Schema) -> Mask:
    """Return the function that tells which rows of a batch with the schema meet a condition.

    Raises `UserError` for anything but a condition over its columns.
    """
    if len(text) > LONGEST:
        raise UserError(f"where: a condition has at most {LONGEST:,} characters, not {len(text):,}")
    try:
        return _Translation(schema).condition(sqlglot.condition(text))
    except SqlglotError:
        raise UserError(f"where: {text!r} is no SQL condition; {HINT}") from None
    except RecursionError:
        raise UserError("where: the condition is nested too deeply") from None


def meeting(where: str, table: pa.Table) -> np.ndarray:
    """Return which rows of a table meet a condition, (rows,) bool; a batch at a time."""
    mask = compile_where(where, table.schema)
    found = [pc.fill_null(mask(batch), False) for batch in table.to_batches()]
    parts = [np.asarray(one.to_numpy(zero_copy_only=False), bool) for one in found]
    return np.concatenate([np.zeros(0, bool), *parts])


def columns_of(schema: pa.Schema) -> list[str]:
    """Return the names that a condition may use: `label` beside the columns, where there are
    labels.
    """
    return [*(["label"] if LABELS in schema.names else []), *schema.names]


class _Translation:
    """Translation of the nodes of a condition over the columns of a schema."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema

    def condition(self, node: Node) -> Mask:
        """Return the mask of a condition."""
        kind = type(node)
        if kind in (exp.And, exp.Or):
            combine = pc.and_kleene if kind is exp.And else pc.or_kleene
            parts = [self.condition(one) for one in node.flatten()]
            return lambda batch: reduce(combine, (part(batch) for part in parts))
        if kind is exp.Not:
            inner = self.condition(node.this)
            return lambda batch: pc.invert(inner(batch))
        if kind is exp.Paren:
            return self.condition(node.this)
        if kind in _COMPARISONS:
            return self._comparison(node)
        return self._test(node)

    def _test(self, node: Node) -> Mask:
        """Return the mask of a test of one column: IN, BETWEEN, LIKE, ILIKE, IS NULL."""
        tests: dict[type, tuple[set[str], Callable[[Any, pa.DataType], Test]]] = {
            exp.In: ({"this", "expressions"}, _is_in),
            exp.Between: ({"this", "low", "high"}, _between),
            exp.Like: ({"this", "expression", "negate"}, _like),
            exp.ILike: ({"this", "expression", "negate"}, _like),
            exp.Is: ({"this", "expression"}, _is_null),
        }
        known, make = tests.get(type(node), (set(), None))
        given = {name for name, value in node.args.items() if value}
        if make is None or not given <= known or not isinstance(node.this, exp.Column):
            raise _unknown(node)
        return self._over(node.this, lambda dtype: make(node, dtype))

    def _comparison(self, node: Node) -> Mask:
        left, right, kind = node.this, node.expression, type(node)
        if isinstance(left, exp.Column) and isinstance(right, exp.Column):
            return self._of_columns(left, right, _COMPARISONS[kind][0])
        if isinstance(right, exp.Column):
            left, right, kind = right, left, _COMPARISONS[kind][1]
        if not isinstance(left, exp.Column):
            raise _unknown(node)
        if kind is exp.NEQ:  # none of the labels is equal, rather than any is not
            equal = self._over(left, lambda dtype: _compare(pc.equal, right, dtype))
            return lambda batch: pc.invert(equal(batch))
        return self._over(left, lambda dtype: _compare(_COMPARISONS[kind][0], right, dtype))

    def _of_columns(self, left: Node, right: Node, compare: Callable) -> Mask:
        a, b = self._name(left), self._name(right)
        types = [self.schema.field(name).type for name in (a, b)]
        if len({*map(_kind, types)}) > 1 or _kind(types[0]) == "list":
            raise UserError(f"where: {a} ({types[0]}) and {b} ({types[1]}) cannot be compared")
        return lambda batch: compare(batch.column(a), batch.column(b))

    def _over(self, column: Node, make: Callable[[pa.DataType], Test]) -> Mask:
        """Return the mask of a test of a column; of a list, whether any of its values meets it."""
        name = self._name(column)
        dtype = self.schema.field(name).type
        if pa.types.is_list(dtype):
            test = make(dtype.value_type)
            return lambda batch: _any(test, batch.column(name))
        test = make(dtype)
        return lambda batch: test(batch.column(name))

    def _name(self, column: Node) -> str:
        name = column.name
        if column.args.get("table") is not None:
            raise _unknown(column)
        known = columns_of(self.schema)
        if name not in known:
            hint = nearest(name, known)
            if getattr(column.this, "quoted", False):
                hint += "; text is written in single quotes"
            raise UserError(f"where: unknown column {name}{hint}; columns are {', '.join(known)}")
        return name if name in self.schema.names else LABELS


def _any(test: Test, lists: pa.Array) -> pa.Array:
    """Return whether any value of each list meets a test; false where there is none."""
    found = np.zeros(len(lists), bool)
    met = pc.fill_null(test(lists.flatten()), False)
    found[pc.list_parent_indices(lists).filter(met).to_numpy()] = True
    return pa.array(found)


def _compare(compare: Callable, node: Node, dtype: pa.DataType) -> Test:
    value = _value(node, dtype)
    if value.type == pa.float64():  # arrow itself refuses whole numbers that float64 rounds
        return lambda values: compare(pc.cast(values, value.type, safe=False), value)
    return lambda values: compare(values, value)


def _is_in(node: Node, dtype: pa.DataType) -> Test:
    tests = [_compare(pc.equal, one, dtype) for one in node.expressions]
    if not tests:
        raise _unknown(node)
    return lambda values: reduce(pc.or_kleene, (test(values) for test in tests))


def _between(node: Node, dtype: pa.DataType) -> Test:
    above = _compare(pc.greater_equal, node.args["low"], dtype)
    below = _compare(pc.less_equal, node.args["high"], dtype)
    return lambda values: pc.and_kleene(above(values), below(values))


def _like(node: Node, dtype: pa.DataType) -> Test:
    if _kind(dtype) != "text":
        raise UserError(f"where: {node.this.name} is no text: LIKE cannot match it")
    pattern, ignore_case = _value(node.expression, dtype).as_py(), isinstance(node, exp.ILike)

    def test(values: pa.Array) -> pa.Array:
        found = pc.match_like(values, pattern, ignore_case=ignore_case)
        return pc.invert(found) if node.args.get("negate") else found

    return test


def _is_null(node: Node, dtype: pa.DataType) -> Test:
    del dtype
    if not isinstance(node.expression, exp.Null):
        raise _unknown(node)
    return pc.is_null


def _value(node: Node, dtype: pa.DataType) -> pa.Scalar:
    """Return a literal as a value that a column's values compare with."""
    sign = 1
    while isinstance(node, exp.Neg):
        node, sign = node.this, -sign
    if isinstance(node, exp.Null):
        raise UserError("where: nothing equals NULL; write IS NULL or IS NOT NULL")
    if not isinstance(node, exp.Literal) or (node.is_string and sign < 0):
        raise _unknown(node)
    kind = "text" if node.is_string else "number"
    if _kind(dtype) != kind:
        raise UserError(
            f"where: {node.sql()[:80]} is a {kind}, and the column holds {_kind(dtype)}s"
        )
    return pa.scalar(node.this) if node.is_string else _number(node.this, sign)


def _number(digits: str, sign: int) -> pa.Scalar:
    value = sign * (int(digits) if digits.isdecimal() else float(digits))
    return pa.scalar(value if -(2**63) <= value < 2**63 else float(value))


def _kind(dtype: pa.DataType) -> str:
    if pa.types.is_list(dtype):
        return "list"
    return "text" if pa.types.is_string(dtype) or pa.types.is_large_string(dtype) else "number"


def _unknown(node: Node) -> UserError:
    return UserError(f"where: {node.sql()[:80]!r} is not supported; {HINT}")

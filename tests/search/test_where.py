"""Conditions over metadata mean what they mean in SQL, and nothing else gets through."""

import operator
import re
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmodal.errors import UserError
from xmodal.search.where import compile_where, meeting

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("caption", pa.string()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("labels", pa.list_(pa.string())),
    ]
)
WORDS = ["shirt", "red shirt", "it's", "", "a%b", "ß", "Shirt"]
NUMBERS = [-(2**53) - 1, -3, 0, 1, 224, 2**62]
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "key": st.sampled_from(WORDS),
            "caption": st.sampled_from(WORDS) | st.none(),
            "width": st.sampled_from(NUMBERS) | st.none(),
            "height": st.sampled_from(NUMBERS),
            "labels": st.lists(st.sampled_from(WORDS), max_size=3) | st.none(),
        }
    ),
    max_size=6,
)
OPERATORS = {
    "=": operator.eq,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
Value = bool | None


def quoted(word: str) -> str:
    return "'" + word.replace("'", "''") + "'"


def like(value: str, pattern: str) -> bool:
    parts = {"%": ".*", "_": "."}
    return re.fullmatch("".join(parts.get(c) or re.escape(c) for c in pattern), value) is not None


def both(left: Value, right: Value) -> Value:
    if left is False or right is False:
        return False
    return None if left is None or right is None else True


def negated(value: Value) -> Value:
    return None if value is None else not value


# A condition as text, and as a function of a row: true, false or (None) neither.
Condition = tuple[str, Any]


@st.composite
def simple(draw: st.DrawFn) -> Condition:
    column = draw(st.sampled_from(["key", "caption", "width", "height", "label", "labels"]))
    name, compare = draw(st.sampled_from(sorted(OPERATORS.items())))
    is_number = column in ("width", "height")
    value = draw(st.sampled_from(NUMBERS if is_number else WORDS))
    text = str(value) if is_number else quoted(value)
    if column.startswith("label"):
        if name == "<>":
            return f"{column} <> {text}", lambda row: value not in (row["labels"] or [])
        return f"{column} {name} {text}", lambda row: any(
            compare(one, value) for one in row["labels"] or []
        )
    if draw(st.booleans()):
        return (
            f"{column} {name} {text}",
            lambda row: None if row[column] is None else compare(row[column], value),
        )
    mirrored = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}.get(name, name)
    return (
        f"{text} {mirrored} {column}",
        lambda row: None if row[column] is None else compare(row[column], value),
    )


@st.composite
def other(draw: st.DrawFn) -> Condition:
    words = draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=3))
    pattern = draw(st.sampled_from(["%shirt", "_", "%", "it's%", "Shirt"]))
    low, high = draw(st.tuples(st.sampled_from(NUMBERS), st.sampled_from(NUMBERS)))
    listed = ", ".join(map(quoted, words))
    return draw(
        st.sampled_from(
            [
                (f"key IN ({listed})", lambda row: row["key"] in words),
                (f"label IN ({listed})", lambda row: bool({*words} & {*(row["labels"] or [])})),
                ("caption IS NULL", lambda row: row["caption"] is None),
                ("caption IS NOT NULL", lambda row: row["caption"] is not None),
                (
                    f"height BETWEEN {low} AND {high}",
                    lambda row: low <= row["height"] <= high,
                ),
                (
                    f"caption LIKE {quoted(pattern)}",
                    lambda row: None if row["caption"] is None else like(row["caption"], pattern),
                ),
                (
                    "width > height",
                    lambda row: None if row["width"] is None else row["width"] > row["height"],
                ),
            ]
        )
    )


def joined(conditions: st.SearchStrategy[Condition]) -> st.SearchStrategy[Condition]:
    pairs = st.tuples(conditions, conditions)
    return (
        conditions.map(lambda one: (f"NOT ({one[0]})", lambda row: negated(one[1](row))))
        | pairs.map(
            lambda two: (
                f"({two[0][0]}) AND ({two[1][0]})",
                lambda row: both(two[0][1](row), two[1][1](row)),
            )
        )
        | pairs.map(
            lambda two: (
                f"({two[0][0]}) OR ({two[1][0]})",
                lambda row: negated(both(negated(two[0][1](row)), negated(two[1][1](row)))),
            )
        )
    )


@settings(max_examples=300, deadline=None)
@given(ROWS, st.recursive(simple() | other(), joined, max_leaves=5))
def test_conditions_mean_what_they_mean_in_sql(
    rows: list[dict[str, Any]], condition: Condition
) -> None:
    text, expected = condition
    # In several batches: one that begins within a column has its lists at an offset.
    table = pa.concat_tables(
        [pa.Table.from_pylist(part, SCHEMA) for part in (rows[:2], rows[2:])]
    ).slice(1)
    assert meeting(text, table).tolist() == [expected(row) is True for row in rows[1:]]


@pytest.mark.parametrize(
    "text",
    [
        "DROP TABLE x",
        "SELECT 1",
        "key = (SELECT 1)",
        "key IN (SELECT key FROM x)",
        "key = 'a'; DROP TABLE x",
        "1 = 1",
        "TRUE",
        "key",
        "key = ?",
        "key = :name",
        "load_file('/etc/passwd') = 'x'",
        "length(key) = 1",
        "key = 'a' || 'b'",
        "width + 1 = 2",
        "CAST(width AS TEXT) = 'a'",
        "label = ANY(ARRAY['x'])",
        "key LIKE 'a' ESCAPE '!'",
        "key SIMILAR TO 'a'",
        "key RLIKE '(a+)+$'",
        "EXISTS (SELECT 1)",
        "CASE WHEN key = 'a' THEN TRUE END",
        "x.key = 'a'",
        "'a' = 'a'",
        "key IS TRUE",
        "width = 0x10",
        "key = -'a'",
        "key IN ()",
        "key = '",
        "",
        "(" * 900 + "key = 'a'" + ")" * 900,
        "NOT " * 490 + "key = 'a'",
        "key = 'a' OR " * 200 + "key = 'a'",
    ],
)
def test_anything_but_a_condition_is_one_line(text: str) -> None:
    with pytest.raises(UserError, match="where: ") as raised:
        compile_where(text, SCHEMA)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


def test_mistakes_are_named() -> None:
    def error(text: str) -> str:
        with pytest.raises(UserError) as raised:
            compile_where(text, SCHEMA)
        return str(raised.value)

    assert "unknown column widht (did you mean width?)" in error("widht > 3")
    assert "text is written in single quotes" in error('key = "a"')
    assert "'a' is a text, and the column holds numbers" in error("width = 'a'")
    assert "3 is a number, and the column holds texts" in error("label = 3")
    assert "write IS NULL" in error("caption = NULL")
    assert "width (int64) and key (string) cannot be compared" in error("width = key")
    assert "width is no text" in error("width LIKE 'a'")


@pytest.mark.parametrize("number", ["1e400", "99999999999999999999", "1.5", "-1.5", "1e3"])
def test_numbers_beyond_whole_ones_compare(number: str) -> None:
    rows = [{"width": n, "height": 0} for n in NUMBERS]
    table = pa.Table.from_pylist(rows, SCHEMA)
    assert meeting(f"width > {number}", table).tolist() == [n > float(number) for n in NUMBERS]


def test_no_row_is_no_row() -> None:
    assert meeting("label = 'a'", SCHEMA.empty_table()).tolist() == []

"""Cells of tables: quotes, values that are no texts, encodings."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.pair_tables import causes, fails, notes, splits, train, write, write_table
from xmodal.data.fields import captions_of

# -- quotes, and rows that they swallow --


def quoted(folder: Path, suffix: str) -> Path:
    """Twelve rows; the third caption begins with a quote, the eighth ends with one."""
    odd = {2: '"best day ever', 7: 'my new 12"'}
    mark = "\t" if suffix == "tsv" else ","
    rows = [f"{n}.jpg{mark}{odd.get(n, f'caption {n}')}" for n in range(12)]
    return write(folder / f"pairs.{suffix}", "\n".join([f"filepath{mark}title", *rows]) + "\n")


def test_quotes_are_text_in_tsv(tmp_path: Path) -> None:
    found = train(quoted(tmp_path, "tsv"))
    assert len(found) == 12
    assert found["2.jpg"] == ['"best day ever']
    assert found["7.jpg"] == ['my new 12"']
    assert len(train(quoted(tmp_path, "csv"), quotes="none")) == 12


@pytest.mark.parametrize(
    "rows", ["image,title\n{0}\n", "title,image\n{1}\n", "a,title,image\n{2}\n"]
)
def test_a_cell_that_swallowed_rows_is_counted(rows: str, tmp_path: Path) -> None:
    lines = [
        '1.jpg,"open\n2.jpg,x\n\n3.jpg,12"\n4.jpg,x',
        '"open,1.jpg\n12",2.jpg\nx,4.jpg',
        'a,"open,1.jpg\nb,12",2.jpg\nc,x,4.jpg',
    ]
    table = write(tmp_path / "a.csv", rows.format(*lines))
    assert train(table) == {"4.jpg": ["x"]}
    ((where, cause, _),) = causes(table)
    assert where.startswith("a.csv:")
    assert cause.startswith("cell that holds whole rows, as after an open quote")
    assert len(train(table, quotes="double")) == 2


def test_quotes_that_look_like_syntax_are_noted(tmp_path: Path) -> None:
    table = write(tmp_path / "a.tsv", 'image\tcaption\n0.jpg\t"a ""big"" dog"\n1.jpg\t"\n')
    assert train(table) == {"0.jpg": ['"a ""big"" dog"'], "1.jpg": ['"']}
    assert notes(table) == [
        "a.tsv has 1 cells within double quotes (line 2 the first), which are read as text: "
        "quotes=double removes them"
    ]
    assert fails(table, quotes="double").startswith(f"line 3 of {table} begins a row")
    assert fails(table, quotes="single") == "quotes=single: it is one of auto, none, double"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(
        st.text(st.characters(exclude_characters="\t\r\n\0", codec="utf-8"), min_size=1).filter(
            lambda text: captions_of([text]).kept
        ),
        min_size=1,
    )
)
def test_no_row_of_a_tsv_is_lost(texts: list[str], tmp_path: Path) -> None:
    rows = [f"{n}.jpg\t{text}" for n, text in enumerate(texts)]
    table = write(tmp_path / "a.tsv", "\n".join(["image\tcaption", *rows]))
    assert list(train(table)) == [f"{n}.jpg" for n in range(len(texts))]


@pytest.mark.parametrize("suffix", ["tsv", "csv"])
def test_a_carriage_return_within_a_line_ends_no_row(suffix: str, tmp_path: Path) -> None:
    mark = "\t" if suffix == "tsv" else ","
    text = f"image{mark}caption\n0.jpg{mark}a red\rdog\n1.jpg{mark}b\r\n"
    table = write(tmp_path / f"a.{suffix}", text)
    if suffix == "tsv":
        assert train(table) == {"0.jpg": ["a red\rdog"], "1.jpg": ["b"]}
    else:
        assert fails(table).startswith(
            f"line 2 of {table} begins a row that is broken (new-line character seen in unquoted "
            "field): close"
        )
    old_mac = write(tmp_path / f"b.{suffix}", f"image{mark}caption\r0.jpg{mark}a dog\r")
    assert train(old_mac) == {"0.jpg": ["a dog"]}


def test_columns_of_one_name_are_refused_and_case_tells_others_apart(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    columns = [pa.array(["0.jpg"]), pa.array(["a"]), pa.array(["b"])]
    names = ["image", "text", "text"]
    parquet.write_table(pa.Table.from_arrays(columns, names), tmp_path / "a.parquet")
    expected = f"{tmp_path / 'a.parquet'} has two columns text: rename one of them"
    assert fails(tmp_path / "a.parquet") == expected
    table = write(tmp_path / "b.csv", "image,text,Text\n0.jpg,a,b\n")
    assert train(table) == {"0.jpg": ["a"]}
    assert train(table, caption="Text") == {"0.jpg": ["b"]}


def test_a_table_without_rows_lacks_columns_too(tmp_path: Path) -> None:
    assert "has no column for the caption" in fails(write(tmp_path / "a.csv", "image,said\n"))


# -- what is no text --


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        ([{"raw": "a cat", "sentid": 0}], "caption is no text (but an object)"),
        ([["a cat", "a pup"]], "caption is no text (but a list)"),
        ({"en": "a cat", "de": "x"}, "caption is no text (but an object)"),
        (True, "caption is no text (but true or false)"),
        (7, "caption is no text (but a number)"),
        ("['a cat', \"it's\"]", "caption is a list or an object written as text"),
        ("{'raw': 'a cat'}", "caption is a list or an object written as text"),
    ],
)
@pytest.mark.parametrize("suffix", ["json", "jsonl", "parquet"])
def test_what_is_no_text_is_no_caption(
    value: object, cause: str, suffix: str, images: Path
) -> None:
    rows = [{"image": "img/0.jpg", "caption": value}]
    table = write_table(images / f"a.{suffix}", rows)
    assert causes(table) == [("img/0.jpg", cause, f"a.{suffix}:1")]
    assert splits(table)["train"].items == []


def test_a_list_of_texts_written_as_json_is_its_texts(images: Path) -> None:
    rows = [
        {"image": "img/0.jpg", "raw": json.dumps(["a dog", "", "a pup"]), "label": '["x", "y"]'},
        {"image": "img/1.png", "raw": "[sic] a cat", "label": "[z"},
        {"image": "img/2.jpg", "raw": str(["a", "b"]), "label": ""},
    ]
    for suffix in ("csv", "jsonl"):
        table = write_table(images / f"a.{suffix}", rows)
        found = splits(table, caption="raw")["train"]
        assert [(item.captions, item.labels) for item in found.items] == [
            (["a dog", "a pup"], ["x", "y"]),
            (["[sic] a cat"], ["[z"]),
        ]
        assert [(name, cause) for name, cause, _ in found.skipped] == [
            ("img/0.jpg", "caption is empty"),
            ("img/2.jpg", "caption is a list or an object written as text"),
        ]


def test_ids_are_texts_or_whole_numbers(images: Path) -> None:
    ids = [4, 4.0, "4", "", None, 1.5, True, [1]]
    rows = [{"image": "img/0.jpg", "caption": str(n), "image_id": i} for n, i in enumerate(ids)]
    table = write_table(images / "a.json", rows)
    assert train(table) == {"4": ["0", "1", "2", "3", "4"]}
    assert len(causes(table)) == 3


# -- encodings and the like --


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "image,caption\na,b\n".encode("utf-16"), "{table} is UTF-16 (its first bytes"),
        (
            "a.csv",
            "image,caption\na,b\n".encode("utf-16-le"),
            "the first line of {table} has a N",
        ),
        ("a.tsv", b"image,caption\na,b\n", "the first line of {table} has commas and no tab"),
        ("a.csv", b"image,caption,caption\na,b,c\n", "{table} has two columns caption: rename"),
        ("a.csv", b"image,caption\na," + b"x" * 10_000_001, "line 2 of {table} is over 10,000,000"),
        ("a.json", b'{"image": "a", "caption": "b"}\n{}', "{table} has more after its first line"),
        ("a.csv", b"", "the first line of {table} is empty: it names the columns"),
        ("a.json", b"[" * 100_000, "{table} is broken JSON"),
        ("a.json", b'["\xe9"]', "line 1 of {table} is not UTF-8"),
        ("a.csv.gz", b"", "--from {table} is an archive: unpack it and name its folder"),
        ("a.parquet", b"PAR1" + b"x" * 100 + b"PAR1", "{table} cannot be read: "),
    ],
)
def test_other_tables_that_cannot_be_read(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    table = tmp_path / name
    table.write_bytes(content)
    assert fails(table).startswith(message.format(table=table))


def test_cells_that_cannot_be_used_are_counted(images: Path) -> None:
    table = write(images / "a.csv", "image,caption\nimg/0.jpg,a\0b\nimg/0.jpg,x\n\n")
    assert train(table) == {"img/0.jpg": ["x"]}
    assert causes(table) == [("a.csv:2", "NUL in a cell", "")]
    lines = write(images / "a.jsonl", "[" * 100_000 + '\n{"image": "x", "caption": "y"}\n')
    assert train(lines) == {"x": ["y"]}
    assert causes(lines)[0][:2] == ("a.jsonl:1", "broken JSON")

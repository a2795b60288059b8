"""Fashion Product Images as a source of shards."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any, ClassVar, Literal

from shards.annotations import read_lines
from shards.by_caption import split_of, splits_by_caption
from shards.source import Composed, Item, SkippedSample, SourceConfig, Split, Splits, require
from xmodal.errors import UserError

LAYOUT = """
images/ID.jpg   the photographs, small or large
styles.csv      a line each: its ID, what it is for, its type and colour; last, its name, which may
                have commas in it
Captions are the names, labels the types (articleType). No splits are published.

train, val, test               80, 10 and 10 %; names that are equal but for words of colour are
                               never in two splits
composed_train, composed_val,  products whose names are equal but for one word of colour, gender and
composed_test                  type being the same, and of which there is one of each colour:
                               from each to each other one, `change blue to red`
composed_val_gallery,          what these are searched in: the products of the split's queries
composed_test_gallery
Rows that are broken, come twice or have no name, and photographs without a row, are counted in
train.
"""


class FashionProductsConfig(SourceConfig):
    """Fashion Product Images: 44,000 photographs of products with their names, in 142 classes."""

    kind: Literal["fashion_products"] = "fashion_products"
    layout: ClassVar[str] = LAYOUT
    builds: ClassVar[str] = "read"


_COLUMNS = (
    "id,gender,masterCategory,subCategory,articleType,baseColour,season,year,usage,"
    "productDisplayName"
)
_NUM_COLUMNS = 10
_NOTHING = ("", "NA")


def read(root: Path) -> Splits:
    """Find the splits by name, and those of composed queries with their galleries."""
    catalogue = _Catalogue(require(root, "images"), require(root, "styles.csv"))
    groups = defaultdict(list)
    for group in catalogue.groups():
        any_product = next(iter(group.values()))
        groups[split_of(catalogue.without_colours(any_product.name))].append(group)
    return {
        **splits_by_caption(
            map(catalogue.item, catalogue.products), catalogue.without_colours, catalogue.skipped
        ),
        **{
            f"composed_{split}": partial(catalogue.queries, groups[split])
            for split in ("train", "val", "test")
        },
        **{
            f"composed_{split}_gallery": partial(catalogue.gallery, groups[split])
            for split in ("val", "test")
        },
    }


@dataclass(frozen=True)
class _Product:
    product_id: str
    gender: str
    kind: str
    colour: str
    name: str


# Products that differ in colour alone, by their colours.
_Group = Mapping[str, _Product]


class _Catalogue:
    """The products of the table."""

    def __init__(self, images: Path, table: Path):
        self.images = images
        self.products, self.skipped = _read_table(table, images)
        colours = {each.colour.lower() for each in self.products if each.colour not in _NOTHING}
        longest_first = sorted(colours, key=lambda colour: (-len(colour), colour))
        any_colour = "|".join(map(re.escape, longest_first))
        self._colour = re.compile(rf"\b({any_colour})\b")

    def without_colours(self, name: str) -> str:
        """A name in lower case without its words of colour."""
        return " ".join(self._colour.sub(" ", name.lower()).split())

    def groups(self) -> Iterator[_Group]:
        """Find the groups of products to make queries of, in the order of the table."""
        groups: dict[Any, dict[str, list[_Product]]] = defaultdict(lambda: defaultdict(list))
        for product in self.products:
            before, *rest = self._colour.split(product.name.lower())
            if len(rest) == 2:  # one word of colour
                colour, after = rest
                groups[before, after, product.gender, product.kind][colour].append(product)
        for group in groups.values():
            if len(group) > 1 and all(len(products) == 1 for products in group.values()):
                yield {colour: product for colour, [product] in group.items()}

    def queries(self, groups: Sequence[_Group]) -> Split:
        return Split(
            [
                Composed(
                    group[before].product_id,
                    self._picture(group[before]),
                    f"change {before} to {after}",
                    group[after].product_id,
                    self._picture(group[after]),
                )
                for group in groups
                for before, after in permutations(group, 2)
            ]
        )

    def gallery(self, groups: Sequence[_Group]) -> Split:
        products = [product for group in groups for product in group.values()]
        return Split([self.item(product) for product in products], gallery=True)

    def item(self, product: _Product) -> Item:
        name = " ".join(product.name.split())
        return Item(product.product_id, self._picture(product), [name], [product.kind])

    def _picture(self, product: _Product) -> Path:
        return self.images / f"{product.product_id}.jpg"


def _read_table(table: Path, images: Path) -> tuple[list[_Product], list[SkippedSample]]:
    header, *lines = read_lines(table) or [""]
    if header != _COLUMNS:
        raise UserError(f"the first line of {table} is not {_COLUMNS}")
    products: dict[str, _Product] = {}
    skipped = []
    for line in lines:
        # Names are last and not quoted: commas in them are theirs.
        values = line.split(",", _NUM_COLUMNS - 1)
        if len(values) < _NUM_COLUMNS:
            skipped.append((line[:80], f"row of fewer than {_NUM_COLUMNS} columns", line))
        elif values[0] in products:
            skipped.append((values[0], "row with the id of another", line))
        elif values[-1].strip() in _NOTHING:
            skipped.append((values[0], "no name", line))
        else:
            product_id, gender, _, _, kind, colour, *_, name = values
            products[product_id] = _Product(product_id, gender, kind, colour, name)
    known = {line.split(",", 1)[0] for line in lines}
    strangers = sorted(path.name for path in images.glob("*.jpg") if path.stem not in known)
    skipped += [(name, "no row in styles.csv", "") for name in strangers]
    return list(products.values()), skipped

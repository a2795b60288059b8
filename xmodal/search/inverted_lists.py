"""Inverted lists of faiss on a disk: collected in blocks within memory, merged into one file.

A block holds the lists of some rows, one after the other. The merged file holds for every list the
codes of all blocks, then their ids: faiss maps it and reads the lists that a query probes.
"""

from pathlib import Path
from typing import Any

import faiss
import numpy as np

from xmodal.activity import tracked
from xmodal.errors import UserError

ROUND = 8  # rows a list has room for are a multiple, so that ids are aligned


class Blocks:
    """Blocks of the inverted lists of a trained index, in a folder of their own."""

    def __init__(self, index: Any, folder: Path) -> None:
        self.index, self.folder = index, folder
        self.sizes: list[np.ndarray] = []  # of each block, (lists,) int64
        folder.mkdir()

    def flush(self) -> None:
        """Write what is in the index as a block, and empty it."""
        lists, number = self.index.invlists, len(self.sizes)
        sizes = np.array([lists.list_size(one) for one in range(lists.nlist)], np.int64)
        with (
            (self.folder / f"{number}.codes").open("wb") as codes,
            (self.folder / f"{number}.ids").open("wb") as ids,
        ):
            for one in np.flatnonzero(sizes).tolist():
                size = int(sizes[one])
                codes.write(faiss.rev_swig_ptr(lists.get_codes(one), size * lists.code_size))
                ids.write(faiss.rev_swig_ptr(lists.get_ids(one), size))
        self.sizes.append(sizes)
        self.index.reset()

    def merge(self, target: Path) -> Any:
        """Write the lists of all blocks into a file; return them as faiss has them."""
        code_size, total = self.index.invlists.code_size, np.sum(self.sizes, 0)
        lists = faiss.OnDiskInvertedLists()
        lists.nlist, lists.code_size, lists.read_only = len(total), code_size, True
        lists.filename = target.name  # faiss looks beside the index
        lists.lists.clear()
        blocks = [_Block(self.folder, n, sizes, code_size) for n, sizes in enumerate(self.sizes)]
        with target.open("wb") as file:
            for one in tracked(range(len(total)), "merging inverted list"):
                place = faiss.OnDiskOneList()
                place.size, place.offset = int(total[one]), file.tell()
                place.capacity = -(-place.size // ROUND) * ROUND
                unused = place.capacity - place.size
                file.writelines(block.codes(one) for block in blocks)
                file.write(bytes(unused * code_size))
                file.writelines(block.ids(one) for block in blocks)
                file.write(bytes(unused * 8))
                lists.lists.push_back(place)
            lists.totsize = file.tell()
        return lists


def map_lists(index: Any, path: Path) -> None:
    """Map the file of an index' lists; raises `UserError` where it is not as it was written.

    A map that is longer than its file ends the process where it is read.
    """
    lists = faiss.downcast_InvertedLists(index.invlists)
    size = path.stat().st_size if path.is_file() else -1
    if size != lists.totsize:
        found = "it is missing" if size < 0 else f"{size:,} bytes, not {lists.totsize:,}"
        raise UserError(f"{path} is damaged ({found}); index the embeddings again")
    ends, row = [0], lists.code_size + 8  # a code and its id
    places = [lists.lists.at(n) for n in range(lists.nlist)]
    ends += [one.offset + one.capacity * row for one in places]
    if max(ends) > size or sum(one.size for one in places) != index.ntotal:
        raise RuntimeError("it does not fit its lists")
    # faiss itself would look in the working folder, or print where it looks.
    lists.filename = str(path)
    lists.do_mmap()


class _Block:
    """A block for reading, list by list in their order."""

    def __init__(self, folder: Path, number: int, sizes: np.ndarray, code_size: int) -> None:
        self.sizes, self.code_size = sizes.tolist(), code_size
        self._codes, self._ids = (
            (folder / f"{number}.{name}").open("rb") for name in ("codes", "ids")
        )

    def codes(self, number: int) -> bytes:
        return self._codes.read(self.sizes[number] * self.code_size)

    def ids(self, number: int) -> bytes:
        return self._ids.read(self.sizes[number] * 8)

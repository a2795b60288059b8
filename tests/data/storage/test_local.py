import os
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from xmodal.data.config import DataConfig
from xmodal.data.storage import LocalStorage, open_storage
from xmodal.data.storage.config import StorageConfig
from xmodal.errors import UserError


@given(st.binary(max_size=300), st.integers(0, 400), st.none() | st.integers(0, 400))
def test_a_part_is_what_slicing_gives(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, start: int, stop: int | None
) -> None:
    url = str(tmp_path_factory.mktemp("files") / "file")
    storage = LocalStorage()
    storage.write(url, data)
    if stop is None or stop >= start:
        assert storage.read(url, start, stop) == data[start:stop]


def test_what_is_not_there(tmp_path: Path) -> None:
    storage, url = LocalStorage(), str(tmp_path / "none")
    assert storage.list(url) == {}
    assert storage.folders(url) == []
    for operation in (storage.read, storage.identity, storage.open, storage.remove):
        with pytest.raises(FileNotFoundError):
            operation(url)
    with pytest.raises(FileNotFoundError):
        storage.read(url, 0, 3)


def test_listing_is_of_one_level(tmp_path: Path) -> None:
    storage = LocalStorage()
    storage.write(f"{tmp_path}/a/one", b"1")
    storage.write(f"{tmp_path}/a/b/two", b"22")
    assert storage.list(f"{tmp_path}/a") == {"one": 1}
    assert storage.folders(f"{tmp_path}/a") == ["b"]


def test_a_file_that_failed_is_not_there_and_the_old_one_stays(tmp_path: Path) -> None:
    storage, url = LocalStorage(), str(tmp_path / "file")
    for before in (None, b"old"):
        if before:
            storage.write(url, before)
        with suppress(ZeroDivisionError), storage.create(url) as file:
            file.write(b"half of it")
            raise ZeroDivisionError
        assert Path(url).exists() == bool(before)
    assert storage.read(url) == b"old"


def test_identity_tells_other_bytes(tmp_path: Path) -> None:
    storage, url = LocalStorage(), str(tmp_path / "file")
    storage.write(url, b"one")
    before = storage.identity(url)
    assert storage.identity(url) == before
    storage.write(url, b"other")
    assert storage.identity(url) != before


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written: "):
        LocalStorage().write(f"{tmp_path}/file/below", b"")


def test_other_schemes_are_refused() -> None:
    with pytest.raises(UserError, match="gs:// is not supported; shards lie in folders or in s3:"):
        open_storage("gs://bucket/folder")


def test_a_scheme_that_is_registered_is_reached_as_the_recipe_says() -> None:
    class DriveConfig(StorageConfig):
        kind: Literal["drive"] = "drive"
        builds: ClassVar[type] = SimpleNamespace
        user: str

    try:
        data = DataConfig.model_validate(
            {"train": "drive://x", "storage": [{"kind": "drive", "user": "mine"}]}
        )
        assert open_storage("drive://x", data.access).user == "mine"  # type: ignore[attr-defined]
        with pytest.raises(UserError, match=r"drive://x: data\.storage: user is missing"):
            open_storage("drive://x")
        with pytest.raises(ValidationError, match="each scheme once"):
            DataConfig.model_validate({"train": "x", "storage": [{"kind": "s3"}]})
    finally:
        del StorageConfig.kinds["drive"]


@pytest.mark.parametrize("device", ["pipe", "/dev/zero"])
def test_what_is_no_regular_file_is_not_read(tmp_path: Path, device: str) -> None:
    storage, url = LocalStorage(), tmp_path / "file"
    os.mkfifo(url) if device == "pipe" else url.symlink_to(device)
    for stop in (None, 3):
        with pytest.raises(UserError, match="file cannot be read: it is no regular file"):
            storage.read(str(url), 0, stop)
    with pytest.raises(OSError, match="it is no regular file"):
        storage.open(str(url))

"""Checkpoints are read a tensor at a time: none is in memory beside the model's weights."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from xmodal.errors import UserError
from xmodal.formats.array_files import map_arrays
from xmodal.formats.tensors import Rule, read_by
from xmodal.formats.weight_files import open_weights

PARTS, TENSORS, WIDTH = 4, 8, 1 << 20  # 4 files of 8 tensors of 4 MiB


def memory_in_use() -> int:
    """Return the bytes of memory that is this process's own, without mapped files."""
    status = Path("/proc/self/status").read_text()
    (kilobytes,) = (line.split()[1] for line in status.splitlines() if line.startswith("RssAnon"))
    return 1024 * int(kilobytes)


def in_parts(folder: Path) -> int:
    """Write a checkpoint in parts; return its size in bytes."""
    places = {}
    for part in range(PARTS):
        name = f"model-{part}.safetensors"
        tensors = {f"{part}.{number}.k": torch.rand(WIDTH) for number in range(TENSORS)}
        save_file(tensors, folder / name)
        places |= dict.fromkeys(tensors, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return PARTS * TENSORS * WIDTH * 4


def test_a_checkpoint_is_never_held_as_a_whole(tmp_path: Path) -> None:
    size = in_parts(tmp_path)
    rule = Rule("{n}.{rest}.joined", ("{n}.{rest}.k", "{n}.{rest}.k"), lambda *two: torch.cat(two))
    before, most = memory_in_use(), 0
    weights = read_by([rule], open_weights(tmp_path), "it")
    assert len(weights) == PARTS * TENSORS
    for tensor in weights.values():
        assert tensor.sum() > 0
        most = max(most, memory_in_use() - before)
    assert most < size / 2  # one tensor and its parts take a tenth; the rest is the allocator's


def test_files_of_pytorch_in_parts_are_read(tmp_path: Path) -> None:
    places = {f"t{part}": f"pytorch_model-{part}.bin" for part in range(2)}
    for name, place in places.items():
        torch.save({name: torch.ones(3)}, tmp_path / place)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    assert {name: one.sum() for name, one in open_weights(tmp_path).items()} == {"t0": 3, "t1": 3}


def test_files_of_an_index_are_in_its_folder(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    for name in ("../other.safetensors", "/etc/passwd", "missing.safetensors"):
        index.write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(UserError, match=re.escape(f"names {name}, which is missing")):
            open_weights(tmp_path)
    index.write_text("[]")
    with pytest.raises(UserError, match="is no index of weights"):
        open_weights(tmp_path)
    index.unlink()
    with pytest.raises(UserError, match="has no weights: none of model"):
        open_weights(tmp_path)


def test_arrays_are_mapped_and_hold_no_objects(tmp_path: Path) -> None:
    import numpy as np

    arrays = {"a/b": np.arange(12.0).reshape(3, 4), "c": np.float32([5]), "d": np.asarray(2.5)}
    np.savez(tmp_path / "it.npz", **arrays)
    found = map_arrays(tmp_path / "it.npz")
    assert found.keys() == arrays.keys()
    assert all(np.array_equal(found[name], one) for name, one in arrays.items())
    assert isinstance(found["a/b"], np.memmap)
    np.savez(tmp_path / "it.npz", a=np.asarray([{}], dtype=object))
    with pytest.raises(UserError, match="holds no arrays, or is damaged"):
        map_arrays(tmp_path / "it.npz")
    np.savez_compressed(tmp_path / "it.npz", **arrays)
    with pytest.raises(UserError, match="compressed"):
        map_arrays(tmp_path / "it.npz")


def test_a_training_checkpoint_of_open_clip_is_its_state_dict(tmp_path: Path) -> None:
    state = {f"module.{name}": torch.full((2,), float(name)) for name in "12"}
    torch.save({"epoch": 3, "name": "x", "state_dict": state}, tmp_path / "epoch_3.pt")
    found = open_weights(tmp_path)
    assert {name: one.tolist() for name, one in found.items()} == {"1": [1, 1], "2": [2, 2]}
    torch.save({"module.1": torch.ones(1), "other": torch.ones(1)}, tmp_path / "epoch_3.pt")
    assert open_weights(tmp_path).keys() == {"module.1", "other"}
    torch.save({"state_dict": 3}, tmp_path / "epoch_4.pt")
    several = r"has several files of weights \(epoch_3\.pt, epoch_4\.pt\); leave one of them"
    with pytest.raises(UserError, match=several):
        open_weights(tmp_path)
    (tmp_path / "epoch_3.pt").unlink()
    with pytest.raises(UserError, match="has no state dict"):
        open_weights(tmp_path)


def test_a_truncated_file_is_to_be_downloaded_again(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(100)}, path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UserError, match="download it again"):
        open_weights(tmp_path)

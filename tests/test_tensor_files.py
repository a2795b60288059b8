"""Files of tensors: read as data whatever they hold, and read in one place."""

import ast
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.test_conventions import ROOT, name_of
from tests.traps import KINDS, spring, touching
from xmodal.errors import UserError
from xmodal.tensor_files import load_tensors


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_in_a_file_is_executed(kind: str, zipped: bool, tmp_path: Path) -> None:
    file, marker = tmp_path / "weights.pt", tmp_path / "executed"
    held = {"module": {"w": torch.ones(2)}, "deep": [{"x": KINDS[kind](marker)}]}
    torch.save(held, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=rf"^{file} is refused: it asks for [\w.]+, ") as caught:
        load_tensors(file)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", ["weights.pt", "weights.bin", "weights.safetensors"])
def test_no_plain_pickle_is_executed(name: str, protocol: int, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    (tmp_path / name).write_bytes(pickle.dumps(touching(marker), protocol))
    with pytest.raises(UserError, match=f"^{tmp_path / name} "):
        load_tensors(tmp_path / name)
    assert not marker.exists()
    spring(touching(marker))
    assert marker.exists()


@pytest.mark.parametrize("data", [b"", b"hello world", b"\x80\x02.", b"PK\x03\x04" + bytes(99)])
def test_what_is_no_such_file_is_one_line(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    file.write_bytes(data)
    with pytest.raises(
        UserError,
        match=rf"^{file} holds no tensors, or is damaged; restore it, or download it again$",
    ):
        load_tensors(file)
    with pytest.raises(UserError, match=r"none\.pt is missing$"):
        load_tensors(tmp_path / "none.pt")


def test_what_is_data_is_read(tmp_path: Path) -> None:
    tensors = {"w": torch.randn(3), "n": torch.tensor(2)}
    numbers = {"best": np.float64(0.5), "step": np.int64(3), "done": np.bool_(True)}
    plain = {"shape": torch.Size([3]), "dtype": torch.bfloat16, "list": [1, "x", None, (2.0,)]}
    torch.save(tensors | numbers | plain, tmp_path / "weights.pt")
    for mapped in (False, True):
        found = load_tensors(tmp_path / "weights.pt", mapped=mapped)
        assert all(torch.equal(found[name], tensors[name]) for name in tensors)
        assert {name: found[name] for name in numbers | plain} == numbers | plain
    save_file(tensors, tmp_path / "weights.safetensors")
    assert load_tensors(tmp_path / "weights.safetensors").keys() == tensors.keys()


OPTIMIZERS = [
    kind
    for kind in vars(torch.optim).values()
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
    if kind not in {torch.optim.Optimizer, torch.optim.SparseAdam}
]


@pytest.mark.parametrize("kind", OPTIMIZERS, ids=lambda kind: kind.__name__)
def test_the_state_of_any_optimizer_is_read(
    kind: type[torch.optim.Optimizer], tmp_path: Path
) -> None:
    parameter = torch.nn.Parameter(torch.randn(4, 4))
    optimizer = kind([parameter], lr=np.float64(0.1))  # type: ignore[call-arg]

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        loss = parameter.square().sum()
        loss.backward()
        return loss

    optimizer.step(loss)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    found = load_tensors(tmp_path / "state.pt")
    assert str(found) == str(optimizer.state_dict())


# Who may, and why: the one that reads tensors, and the unpickler that knows the names in arrays.
# Readers of pickles that make nothing but data.
ALLOWED = {
    "xmodal.tensor_files": {"torch.load"},
    "shards.pickled": {"pickle.Unpickler"},
    "xmodal.formats.openai_archive": {"pickle.Unpickler"},
}
UNPICKLES = {
    *(f"pickle.{name}" for name in ("load", "loads", "Unpickler")),
    *("torch.load", "joblib.load", "cloudpickle.load", "cloudpickle.loads", "dill.load"),
}


def test_files_of_tensors_are_read_in_one_place() -> None:
    folders = ("xmodal", "shards", "launch", "benchmarks")
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                found |= {ast.unparse(node)} & UNPICKLES
            elif isinstance(node, ast.ImportFrom):
                found |= {f"{node.module}.{alias.name}" for alias in node.names} & UNPICKLES
                found |= {"zero_to_fp32"} & {str(node.module).rpartition(".")[2]}
            elif isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
                given = {"allow_pickle": True, "weights_only": False, "trust_remote_code": True}
                if node.arg in given and node.value.value is given[node.arg]:
                    found.add(f"{node.arg}={node.value.value}")
        assert found == ALLOWED.get(name_of(path), set()), path


def test_a_file_that_would_take_more_than_it_has_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(10**6)}, tmp_path / "weights.pt")
    with (
        zipfile.ZipFile(tmp_path / "weights.pt") as stored,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as deflated,
    ):
        for name in stored.namelist():
            deflated.writestr(name, stored.read(name))
    assert (tmp_path / "bomb.pt").stat().st_size < 10_000
    with pytest.raises(UserError, match=r"bomb\.pt is refused: it is compressed, which PyTorch's"):
        load_tensors(tmp_path / "bomb.pt")
    with (tmp_path / "bomb.safetensors").open("wb") as file:
        file.write((10**8).to_bytes(8, "little"))
        file.truncate(2 * 10**8)  # takes no room on the disk
    with pytest.raises(UserError, match="is refused: its header is 100,000,000 bytes, of at most"):
        load_tensors(tmp_path / "bomb.safetensors")

"""The contents of a wheel, and its use without extras in a folder outside the checkout."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STEPS = ["stages.0.length=3 steps", "data.batch_size=16", "data.workers=0", "evaluation.every=0"]
# Puts None in the place of what extras bring, as if it were not installed.
BLOCKED = (
    "import sys; sys.modules |= dict.fromkeys(['deepspeed', 'tensorboard', 'ray', 'optuna', "
    "'s3fs', 'aiobotocore', 'transformers']); "
)


def in_python(code: str, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCKED + code, *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the checkout, built from a copy: builds leave files behind."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("xmodal", "shards"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    folder = tmp_path_factory.mktemp("wheel")
    build = "import sys, setuptools.build_meta as b; b.build_wheel(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", build, folder], cwd=source, check=True, capture_output=True
    )
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_all_that_is_beside_the_code(wheel: Path) -> None:
    kinds = {".py", ".yaml", ".html", ".css", ".js", ".svg", ".typed"}
    files = {
        str(path.relative_to(ROOT))
        for folder in ("xmodal", "shards")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in kinds or path.name == "py.typed"
    }
    held = set(zipfile.ZipFile(wheel).namelist())
    assert files <= held
    assert {name.split("/")[0].split("-")[0] for name in held} == {"xmodal", "shards"}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("train quickstart", "this needs DeepSpeed: pip install 'xmodal[train]'"),
        ("tune quickstart --space quickstart", "this needs DeepSpeed: pip install 'xmodal[train]'"),
        ("shards check s3://bucket/mine", "this needs s3fs: pip install 'xmodal[s3]'"),
    ],
)
def test_an_extra_that_is_missing_is_one_line(words: str, line: str) -> None:
    code = "from xmodal.__main__ import console; console()"
    answer = in_python(code, *words.split())
    assert (answer.returncode, answer.stderr) == (2, f"error: {line}\n")


def test_objectives_shards_and_every_public_name_need_no_extra(tmp_path: Path) -> None:
    code = (
        "import torch, xmodal, xmodal.objectives, shards.__main__, xmodal.assembly.model; "
        "[getattr(m, name) for m in (xmodal, xmodal.objectives) for name in m.__all__]; "
        "print(xmodal.objectives.InfoNCE(scale=14.3))"
    )
    answer = in_python(code)
    assert answer.stdout.startswith("InfoNCE("), answer.stderr
    code = "from xmodal.__main__ import console; console()"
    words = ["shards", "build", "scenes", "--to", tmp_path, "--split", "train", "train=4"]
    answer = in_python(code, *words)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.slow
def test_a_wheel_trains_evaluates_and_loads_in_another_folder(wheel: Path, tmp_path: Path) -> None:
    """Its packages are those of this environment; the code is the wheel's."""
    venv.create(tmp_path / "venv", system_site_packages=False, with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    purelib = "import sysconfig; print(sysconfig.get_path('purelib'))"
    ours = subprocess.run([python, "-c", purelib], capture_output=True, text=True, check=True)
    site = Path(ours.stdout.strip())
    zipfile.ZipFile(wheel).extractall(site)
    (site / "packages.pth").write_text(f"{Path(pytest.__file__).parents[1]}\n")

    def run(*words: str) -> str:
        answer = subprocess.run(
            [python, *words],
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    run("-m", "xmodal", "train", "quickstart", *STEPS)
    assert (tmp_path / "data" / "scenes").is_dir()
    run("-m", "xmodal", "evaluate", "runs/quickstart", "--output", "results")
    code = (
        "import xmodal; print(xmodal.__file__); "
        "print(xmodal.load('runs/quickstart').encode_texts(['a red circle']).shape)"
    )
    assert run("-c", code).splitlines() == [
        str(site / "xmodal" / "__init__.py"),
        "torch.Size([1, 128])",
    ]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    run(*launcher, "-m", "xmodal", "train", "quickstart", *STEPS, "run=runs/two")

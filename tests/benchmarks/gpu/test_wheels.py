"""Wheels for a machine without a network, and what `make gpu` says where packages are missing."""

import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.gpu import wheels
from benchmarks.gpu.runner import ROOT


def names_in(path: str) -> dict[str, str]:
    lines = (ROOT / path).read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(one.name): str(one.specifier) for one in found}


def test_every_wheel_has_a_tested_version() -> None:
    pinned, peers = names_in("constraints.txt"), names_in("benchmarks/peers.txt")
    for line in wheels.names():
        one = Requirement(line)
        name = canonicalize_name(one.name)
        assert str(one.specifier or pinned[name]).startswith("==")
        assert name in pinned or str(one.specifier) == peers[name]


def test_no_address_of_a_registry_is_named() -> None:
    for path in (ROOT / "benchmarks" / "gpu").iterdir():
        if path.is_file():
            assert "://" not in path.read_text(), path


def test_what_is_missing_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert wheels.prepare(tmp_path) == []  # here all is installed
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(wheels, "FOLDER", tmp_path / "none")
    with pytest.raises(SystemExit, match=r"lacks braceexpand, .*torch.*; install them, or run"):
        wheels.prepare(tmp_path / "site")

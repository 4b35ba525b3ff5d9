"""Builtins for strict JSON, and files that are written whole or not at all."""

from __future__ import annotations

import json
import math
import os
import stat
import sys
from pathlib import Path

import numpy as np
import pytest

from lightning_scaling._utils.serialization import atomic_write, finite_or_none, parse_json, to_builtins


def test_anything_becomes_builtins_that_strict_json_holds():
    data = {
        1: (np.float32(0.5), np.int64(3), np.bool_(True)),
        "array": np.array([[1.0, math.nan]]),
        "path": Path("a"),
        "set": {2},
        "none": None,
        "float": np.float64(math.inf),
    }
    made = to_builtins(data)
    assert made == {
        "1": [0.5, 3, True],
        "array": [[1.0, None]],
        "path": "a",
        "set": [2],
        "none": None,
        "float": None,
    }
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert type(made["1"][1]) is int
    assert type(made["1"][2]) is bool


def test_numbers_that_are_not_finite_can_become_text():
    values = [math.nan, -math.inf, np.float64(math.inf), 1.0]
    assert to_builtins(values, nonfinite="text") == ["nan", "-inf", "inf", 1.0]
    assert [float(value) for value in to_builtins(values[1:], nonfinite="text")] == [-math.inf, math.inf, 1.0]


@pytest.mark.parametrize("value", [None, "2", b"2", "x", math.nan, math.inf, [1.0], 10**400, object()])
def test_what_is_no_finite_number_is_none(value):
    assert finite_or_none(value) is None


@pytest.mark.parametrize("value", [2, 2.0, True, np.float32(2), np.int64(2), np.array(2.0)])
def test_what_is_a_finite_number_is_a_float(value):
    found = finite_or_none(value)
    assert type(found) is float
    assert found == float(value)


def test_a_file_is_replaced_as_a_whole(tmp_path):
    file = tmp_path / "file.json"
    assert atomic_write(file, "ä") == file
    assert file.read_bytes() == "ä".encode()
    atomic_write(str(file), b"\x00")
    assert file.read_bytes() == b"\x00"
    assert [path.name for path in tmp_path.iterdir()] == ["file.json"]


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_gets_the_permissions_of_the_umask(mask, mode, tmp_path):
    before = os.umask(mask)
    try:
        file = atomic_write(tmp_path / "new", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == mode


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
def test_an_existing_file_keeps_its_permissions(tmp_path):
    file = tmp_path / "kept"
    file.write_text("old")
    file.chmod(0o640)
    atomic_write(file, "new")
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert file.read_text() == "new"


def test_the_old_content_survives_a_failure(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("old")

    def fail(source, target):
        raise OSError("disk")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk"):
        atomic_write(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(OSError, match="none"):
        atomic_write(tmp_path / "none" / "file", "text")


def test_json_nested_too_deeply_is_no_json():
    with pytest.raises(json.JSONDecodeError, match="too deeply"):
        parse_json(b"[" * 100_000)
    assert parse_json('{"a": [1]}') == {"a": [1]}

import importlib
import importlib.util
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from lightning_scaling.advice.causes import Cause

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def train_bytes():
    spec = importlib.util.spec_from_file_location("train_bytes", ROOT / "examples" / "train_bytes.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_epoch_holds_every_window_once_and_labels_are_the_next_bytes(train_bytes):
    text = torch.arange(5000) % 251
    windows = train_bytes.Windows(text.to(torch.uint8), start=3)
    seen = torch.cat([windows[index]["input_ids"] for index in range(len(windows))])
    whole = text[: len(windows) * train_bytes.CONTEXT]
    assert torch.equal(seen.sort().values, whole.sort().values)
    item = windows[7]
    assert torch.equal(item["labels"][:-1], item["input_ids"][1:])


def test_neighbouring_windows_come_from_all_over_the_text(train_bytes):
    windows = train_bytes.Windows(torch.zeros(100_000, dtype=torch.uint8))
    places = sorted(index * windows.stride % windows.count / windows.count for index in range(50))
    gaps = [after - before for before, after in pairwise(places)]
    assert max(gaps) < 0.05


@pytest.mark.parametrize(("schedule", "late"), [("cosine", 0.304), ("wsd", 1.0)])
def test_the_rate_warms_up_to_its_peak_and_ends_at_a_tenth(train_bytes, schedule, late):
    rates = [train_bytes.rate(step, 1000, schedule) for step in range(1001)]
    assert rates[0] == pytest.approx(0.02)
    assert max(rates) == pytest.approx(1.0)
    assert rates[1000] == pytest.approx(0.1)
    assert all(later <= earlier for earlier, later in pairwise(rates[50:]))
    assert rates[700] == pytest.approx(late, abs=0.001)


def test_the_model_sees_no_byte_before_it_has_to_predict_it(train_bytes):
    torch.manual_seed(0)
    model = train_bytes.ByteGPT(width=16, layers=2, heads=2).eval()
    tokens = torch.randint(0, 256, (1, 12))
    changed = tokens.clone()
    changed[0, 8:] = 0
    with torch.no_grad():
        assert torch.allclose(model(tokens)[0, :8], model(changed)[0, :8])
        assert not torch.allclose(model(tokens)[0, 8:], model(changed)[0, 8:])


def test_the_library_is_split_by_file_and_always_alike(train_bytes):
    training, held_out = train_bytes.library_text()
    assert len(training) > 2_000_000
    assert 0.01 < len(held_out) / len(training) < 0.15
    again, _ = train_bytes.library_text()
    assert torch.equal(training[:10_000], again[:10_000])


@pytest.fixture(scope="module")
def faults():
    folder = str(ROOT / "examples")
    sys.path.insert(0, folder)
    try:
        yield importlib.import_module("faults")
    finally:
        sys.path.remove(folder)


def batch(size=8):
    return {"inputs": torch.arange(size * 4).view(size, 4), "labels": torch.arange(size * 4).view(size, 4)}


def test_every_fault_names_causes_that_the_adviser_knows(faults):
    known = set(Cause)
    for name, fault in faults.FAULTS.items():
        assert fault.causes, name
        assert set(fault.causes) <= known, name
        assert fault.data or fault.step or fault.resumed or not fault.warmup, name


@pytest.mark.parametrize(
    ("name", "inputs", "labels"),
    [("labels", False, True), ("corrupted", True, True), ("normalisation", True, False)],
)
def test_a_fault_of_the_data_changes_what_it_says(faults, name, inputs, labels):
    change = faults.FAULTS[name].data(torch.Generator().manual_seed(0))
    broken = batch()
    change(broken, 0)
    assert (not torch.equal(broken["inputs"], batch()["inputs"])) == inputs
    assert (not torch.equal(broken["labels"], batch()["labels"])) == labels


def test_repeated_data_are_the_first_batches_again(faults, monkeypatch):
    monkeypatch.setattr("broken_runs.FEW_WINDOWS", 16)
    change = faults.FAULTS["repeats"].data(torch.Generator())
    seen = []
    for since in range(6):
        one = batch()
        one["inputs"] += 100 * since
        change(one, since)
        seen.append(int(one["inputs"][0, 0]))
    assert seen == [0, 100, 0, 100, 0, 100]


def test_the_table_counts_what_was_found_in_time_and_what_was_right(faults):
    def result(name, seed, **found):
        return {"name": name, "title": name, "seed": seed, "early": [], "kind": None, "cause": None, **found}

    figures = faults.summary(
        [
            result("labels", 0, delay=0.02, flagged=330, cause="data"),
            result("labels", 1, delay=0.05, flagged=350, cause="learning_rate"),
            result("labels", 2, delay=0.2, flagged=480, cause="data"),
            result("labels", 3, delay=0.01, flagged=328, cause="data", early=[200]),
            result("bytes", 50, delay=None, flagged=None),
            result("bytes", 51, delay=None, flagged=None, early=[100]),
        ]
    )
    (row,) = figures["faults"]
    assert (row["seeds"], row["flagged"], row["right"], row["early"]) == (4, 2, 1, 1)
    assert row["delay"] == pytest.approx(0.035)
    assert figures["healthy"] == [{"name": "bytes", "title": "bytes", "seeds": 2, "flagged": 1}]

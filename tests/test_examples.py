import importlib.util
from itertools import pairwise
from pathlib import Path

import pytest
import torch

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

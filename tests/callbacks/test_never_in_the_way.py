"""Faults that once cost a training something; ``make soak`` draws many more of each kind."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import _soak_ends
import _soak_files
import _soak_isolation
import _soak_ranks
from _soak_training import digest

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def reached(tmp_path_factory):
    """The outcome of a training without callbacks, and the functions that one with them calls, by name."""
    folder = tmp_path_factory.mktemp("reached")
    expected = _soak_isolation.outcome(_soak_isolation.train(folder / "bare"), folder / "bare")
    codes, _ = _soak_isolation.reachable(folder / "with")
    return expected, {code.co_qualname: code for code in codes}


@pytest.mark.parametrize(
    "name", ["OpCounter._note", "OpCounter._count", "_storage", "find_monitors", "ScalingEarlyStopping.setup"]
)
def test_functions_that_once_ended_a_training(name, reached, tmp_path):
    expected, codes = reached
    assert _soak_isolation.with_failure(tmp_path / "failing", codes[name], MemoryError, 0, expected) == ""


@pytest.mark.parametrize("fault", ["RuntimeError", "KeyboardInterrupt"])
def test_the_emergency_checkpoint_does_not_wait_for_a_silent_server(fault):
    (tried, lost), _ = _soak_ends.interrupted([fault], ["server"])
    assert (tried, lost) == (1, [])


@pytest.mark.parametrize(
    "case",
    [
        {"batches": [16, 11], "epochs": 2, "accumulate": 1},  # once waited for the other rank in a broadcast
        {"batches": [6, 9], "epochs": 3, "accumulate": 3},
        {"batches": [6, 6], "epochs": 2, "accumulate": 1, "raises": [1, 4]},
    ],
)
def test_ranks_that_end_apart_end_as_they_would_without_us(case, tmp_path):
    case = {"world": 2, "validation": False, "monitor": None, **case}
    bare = _soak_ranks.outcome(case, tmp_path / "bare", monitored=False)
    assert bare is not None
    assert _soak_ranks.outcome(case, tmp_path / "with", monitored=True) == bare


@pytest.mark.parametrize("case", ["folder deleted in mid run", "full disk"])
def test_a_file_system_in_trouble_costs_the_training_nothing(case):
    assert _soak_files.file_systems([case]) == (1, [])


def test_outcomes_tell_trainings_apart():
    """The comparison of all these tests can fail."""
    import torch

    one, other = torch.zeros(3), torch.tensor([0.0, 0.0, 1e-38])
    assert digest({"weight": one}) == digest({"weight": torch.zeros(3)})
    assert digest({"weight": one}) != digest({"weight": other})

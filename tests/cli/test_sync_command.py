import json

import pytest
from click.testing import CliRunner

from lightning_scaling.cli import main
from lightning_scaling.tracking import Tracker


@pytest.fixture
def journal(tmp_path):
    tracker = Tracker([], journal=tmp_path / "run.jsonl")
    tracker.metrics({"scaling/loss": 2.5}, step=10)
    tracker.close()
    return tmp_path / "run.jsonl"


def run(*args):
    return CliRunner().invoke(main, ["sync", *(str(arg) for arg in args)])


def test_a_journal_without_a_run_says_what_to_give_and_exits_with_1(journal):
    result = run(journal)
    assert result.exit_code == 1
    assert "1 still waiting" in result.stdout
    assert "give a run id" in result.stderr


def test_json_is_one_document(journal):
    result = run(journal, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["waiting"] == 1


def test_an_empty_folder_is_nothing_to_do(tmp_path):
    result = run(tmp_path)
    assert result.exit_code == 0
    assert "no journal" in result.stdout


def test_what_is_no_journal_is_bad_input(tmp_path):
    assert run(tmp_path / "none.jsonl").exit_code == 2
    other = tmp_path / "other.jsonl"
    other.write_text('{"a": 1}\n')
    result = run(other)
    assert result.exit_code == 2
    assert "not a journal" in result.stderr
    assert run(tmp_path, "--timeout", "0").exit_code == 2

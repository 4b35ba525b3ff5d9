import json

import pytest
from click.testing import CliRunner

from lightning_scaling import laws
from lightning_scaling.cli import main


def run(*args):
    return CliRunner().invoke(main, ["laws", *args])


def test_the_catalogue_lists_every_law_under_its_group():
    result = run()
    assert result.exit_code == 0
    first_words = [line.split()[0] for line in result.stdout.splitlines() if line.strip()]
    for name in laws.names():
        assert name in first_words
        assert laws.group(name) in first_words
    assert f"{len(laws.names())} laws" in result.stderr


def test_formula_inputs_and_number_of_published_constants_stand_next_to_the_name():
    [row] = [line for line in run().stdout.splitlines() if line.startswith("chinchilla ")]
    assert "loss = E + A/params^alpha + B/tokens^beta" in row
    assert "params, tokens" in row
    assert row.split()[-1] == str(len(laws.get("chinchilla").published))


def test_the_catalogue_as_json_holds_the_same():
    result = run("--json")
    assert result.exit_code == 0
    assert result.stderr == ""
    found = {row["name"]: row for row in json.loads(result.stdout)["laws"]}
    assert sorted(found) == laws.names()
    assert found["chinchilla"]["group"] == "dense"
    assert found["chinchilla"]["inputs"]["params"] == "model parameters"
    assert "besiroglu" in found["chinchilla"]["published"]


def test_a_tag_narrows_the_list():
    found = [row["name"] for row in json.loads(run("--tag", "sparse", "--json").stdout)["laws"]]
    assert found == laws.names("sparse")
    assert 0 < len(found) < len(laws.names())


def test_an_unknown_tag_is_answered_with_the_known_ones():
    result = run("--tag", "knitting")
    assert result.exit_code == 2
    assert "'fine-tuning'" in result.stderr


def test_a_name_gives_the_card():
    result = run("chinchilla")
    assert result.exit_code == 0
    for part in (
        "loss = E + A/params^alpha + B/tokens^beta",
        "2203.15556",
        "irreducible loss",
        "besiroglu",
        "pitfalls",
    ):
        assert part in result.stdout


def test_the_card_as_json_holds_parameters_and_constants():
    card = json.loads(run("chinchilla", "--json").stdout)
    assert [row["name"] for row in card["parameters"]] == ["E", "A", "alpha", "B", "beta"]
    known = {row["name"]: row for row in card["constants"]}
    assert known["besiroglu"]["values"]["alpha"] == pytest.approx(0.348, abs=1e-3)
    assert known["besiroglu"]["verified"] == "checked"


@pytest.mark.parametrize("name", laws.names())
def test_every_law_has_a_card_for_people_and_for_programs(name):
    for flags in ([], ["--json"]):
        result = run(name, *flags)
        assert result.exit_code == 0, result.output
        assert name in result.stdout.lower()


def test_options_say_how_a_law_is_made():
    assert "c3" in run("bnsl", "--option", "breaks=3").stdout
    assert "c3" not in run("bnsl").stdout
    assert "t_code" in run("ye_mixing", "--option", "domains=code,web,books").stdout


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["chincilla"], "did you mean chinchilla"),
        (["quite-another-thing"], "`lightning-scaling laws` lists them"),
        (["chinchilla", "--option", "breaks=2"], "takes no options"),
        (["bnsl", "--option", "brakes=2"], "takes the options breaks, over"),
        (["bnsl", "--option", "breaks=many"], "breaks"),
        (["bnsl", "--option", "breaks"], "NAME=VALUE"),
        (["chinchilla", "--tag", "ladder"], "--tag"),
        (["--option", "breaks=2"], "name the law"),
    ],
)
def test_a_wrong_question_is_answered_with_one_sentence(args, expected):
    result = run(*args)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert expected in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_law_that_cannot_be_made_without_options_is_still_listed(monkeypatch):
    get = laws.get

    def picky(name, **options):
        if name == "bnsl" and not options:
            raise TypeError("breaks is missing")
        return get(name, **options)

    monkeypatch.setattr(laws, "get", picky)
    result = run()
    assert result.exit_code == 0
    [row] = [line for line in result.stdout.splitlines() if line.startswith("bnsl ")]
    assert "made with --option: breaks is missing" in row
    [row] = [row for row in json.loads(run("--json").stdout)["laws"] if row["name"] == "bnsl"]
    assert row == {"name": "bnsl", "group": "curves", "needs": "breaks is missing"}
    assert run("bnsl").exit_code == 2

import json

import numpy as np
import pytest
from click.testing import CliRunner

from lightning_scaling import laws
from lightning_scaling.allocation import allocate as solve
from lightning_scaling.cli.allocate import allocate


def run(*args):
    return CliRunner().invoke(allocate, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A fit of a planted surface, saved as the command `fit` saves it."""
    law = laws.get("chinchilla")
    truth = {"E": 1.8, "A": 480.0, "alpha": 0.35, "B": 2000.0, "beta": 0.37}
    flops = np.repeat(np.geomspace(1e18, 1e20, 5), 7)
    params = 2e8 * (flops / 1e19) ** 0.51 * np.tile(np.geomspace(0.2, 5, 7), 5)
    data = {"params": params, "tokens": flops / 6 / params}
    noise = np.exp(0.001 * np.random.default_rng(0).standard_normal(len(flops)))
    fit = law.fit(data | {"loss": law.evaluate(truth, **data) * noise})
    return fit.save(tmp_path_factory.mktemp("fits") / "fit.json"), fit


def test_json_is_the_allocation_of_the_saved_fit(saved):
    file, fit = saved
    result = run("--fit", file, "--flops", "1e21", "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    best = solve(fit, 1e21)
    assert document["params"] == pytest.approx(best.params)
    assert document["tokens"] == pytest.approx(best.tokens)
    assert document["intervals"]["params"] == pytest.approx(best.intervals()["params"])
    assert document["status"] == "ok"
    assert len(result.stdout.strip().splitlines()) == 1


def test_the_table_shows_the_same_for_people(saved):
    file, _ = saved
    result = run("--fit", file, "--flops", "1e21", "--level", "0.5")
    assert result.exit_code == 0
    shown = " ".join(result.stdout.split())
    for word in ("params", "tokens per parameter", "50% interval", "given", "Compute wasted", "x2: 1", "they agree"):
        assert word in shown


def test_published_constants_need_no_fit():
    document = json.loads(run("--law", "chinchilla", "--constants", "besiroglu", "--flops", 1e21, "--json").stdout)
    assert document["ratio"] == pytest.approx(21.5, rel=0.01)
    assert document["intervals"]["params"] is None
    assert document["extrapolation"] is None


@pytest.mark.parametrize("size", ["70B", "70e9", "70_000M", "0.07T"])
def test_sizes_may_be_written_with_letters(size):
    result = run("--law", "chinchilla", "--params", size, "--tokens", "1.4T", "--json")
    assert result.exit_code == 0
    choice = json.loads(result.stdout)["choice"]
    assert choice["params"] == pytest.approx(70e9)
    assert choice["flops"] == pytest.approx(6 * 70e9 * 1.4e12)


def test_every_question_can_be_asked():
    for question in (("--params", "1B"), ("--tokens", "20B"), ("--target", "2.5")):
        document = json.loads(run("--law", "chinchilla", *question, "--json").stdout)
        assert document[{"--target": "loss"}.get(question[0], question[0][2:])] == pytest.approx(
            {"--params": 1e9, "--tokens": 20e9, "--target": 2.5}[question[0]]
        )


def test_inference_bounds_and_distinct_tokens_are_passed_on():
    served = run("--law", "chinchilla", "--flops", 1e21, "--inference-tokens", "100B", "--json")
    assert json.loads(served.stdout)["params"] < 2.7e9
    bounded = run("--law", "chinchilla", "--flops", 1e21, "--max-params", "1B")
    assert bounded.exit_code == 0
    assert "chinchilla: at bounds" in bounded.stdout
    repeated = run("--law", "data_constrained", "--flops", 1e22, "--unique-tokens", "25B", "--json")
    assert json.loads(repeated.stdout)["epochs"] == pytest.approx(9.49, abs=0.02)


def test_of_several_given_values_the_best_is_shown():
    result = run("--law", "abnar", "--flops", 1e21, "--given", "sparsity=0,0.5,0.9")
    assert result.exit_code == 0
    assert "best of 3" in result.stdout
    assert "Instead with sparsity 0.5" in result.stdout
    one = run("--law", "abnar", "--flops", 1e21, "--given", "sparsity=0.5", "--json")
    assert json.loads(one.stdout)["given"] == {"sparsity": 0.5}


def test_no_optimum_is_a_failure_of_the_work():
    result = run("--law", "chinchilla", "--target", "1.2", "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document["status"] == "no_optimum"
    assert document["params"] is None
    assert "never reaches a loss of 1.2" in result.stderr
    assert run("--law", "chinchilla", "--target", "1.2").stdout == ""


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--flops", "1e21"], "Give a fit with `--fit FILE`"),
        (["--fit", "fit.json", "--law", "chinchilla", "--flops", "1e21"], "one of the two"),
        (["--fit", "fit.json", "--constants", "besiroglu", "--flops", "1e21"], "`--constants` belongs to `--law`"),
        (["--fit", "nowhere.json", "--flops", "1e21"], "There is no file"),
        (["--law", "chinchila", "--flops", "1e21"], "did you mean chinchilla"),
        (["--law", "chinchilla", "--constants", "x", "--flops", "1e21"], "no constants named 'x'"),
        (["--law", "chinchilla"], "Give one of `flops`"),
        (["--law", "chinchilla", "--flops", "lots"], "'lots' is not a number such as 7e9 or 7B"),
        (["--law", "chinchilla", "--flops", "-1"], "`flops` must be a positive"),
        (["--law", "chinchilla", "--flops", "1e21", "--level", "2"], "`--level`"),
        (["--law", "chinchilla", "--flops", "1e21", "--given", "experts"], "`--given` must be NAME=VALUE"),
        (["--law", "chinchilla", "--flops", "1e21", "--given", "experts=many"], "`--given` must be NAME=VALUE"),
        (["--law", "chinchilla", "--flops", "1e21", "--given", "experts=8"], "no input of chinchilla"),
        (["--law", "abnar", "--flops", "1e21"], "also takes `sparsity`"),
    ],
)
def test_bad_usage_gives_one_sentence_and_exit_code_2(args, expected):
    result = run(*args)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert expected in result.stderr
    assert "Traceback" not in result.stderr


def test_a_file_that_is_no_fit_is_named(tmp_path):
    file = tmp_path / "other.json"
    file.write_text('{"a": 1}')
    result = run("--fit", file, "--flops", "1e21")
    assert result.exit_code == 2
    assert "is not a saved fit" in result.stderr

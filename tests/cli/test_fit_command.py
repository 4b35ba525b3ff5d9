import gzip
import io
import json
import sys

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from lightning_scaling import laws
from lightning_scaling.cli import main
from lightning_scaling.cli.output import progress_bar

TRUTH = {"E": 1.8, "A": 480.0, "alpha": 0.35, "B": 2000.0, "beta": 0.37}


@pytest.fixture(scope="module")
def ladder():
    params, tokens = (a.ravel() for a in np.meshgrid(np.geomspace(5e7, 5e9, 5), np.geomspace(1e9, 2e11, 6)))
    loss = laws.get("chinchilla").evaluate(TRUTH, params=params, tokens=tokens)
    loss = loss * np.exp(0.003 * np.random.default_rng(0).standard_normal(loss.size))
    family = np.repeat(["a", "b", "c", "d", "e", "f"], 5)
    return pd.DataFrame(
        {"params": params, "tokens": tokens, "loss": loss, "family": family, "count": 1.0 + params / 1e9}
    )


@pytest.fixture
def csv(ladder, tmp_path):
    file = tmp_path / "runs.csv"
    ladder.to_csv(file, index=False)
    return file


def run(*args, **more):
    return CliRunner().invoke(main, ["fit", *(str(arg) for arg in args)], **more)


def fitted(*args, **more):
    result = run(*args, "--json", **more)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_table_goes_to_stdout_and_nothing_else(csv):
    result = run(csv, "--law", "chinchilla")
    assert result.exit_code == 0
    assert result.stderr == ""
    for part in (
        "loss = E + A/params^alpha + B/tokens^beta",
        "30 used of 30",
        "95 % interval",
        "alpha",
        "status      ok",
    ):
        assert part in result.stdout


def test_json_is_the_document_that_can_be_loaded(csv, tmp_path):
    document = fitted(csv, "--law", "chinchilla")
    assert document["status"] == "ok"
    assert document["params"]["alpha"] == pytest.approx(TRUTH["alpha"], rel=0.1)
    file = tmp_path / "fit.json"
    file.write_text(json.dumps(document))
    assert laws.load(file).params == document["params"]


def test_a_saved_fit_is_the_fit_that_was_shown(csv, tmp_path):
    file = tmp_path / "fit.json"
    document = fitted(csv, "--law", "chinchilla", "--save", file, "--bootstrap", 20)
    again = laws.load(file)
    assert again.params == document["params"]
    assert again.replicates.shape == (20, 5)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "parquet", "csv.gz"])
def test_every_kind_of_file_gives_the_same_fit(ladder, csv, tmp_path, suffix):
    file = tmp_path / f"other.{suffix}"
    text = ladder.to_csv(index=False)
    if suffix == "parquet":
        ladder.to_parquet(file)
    elif suffix == "csv.gz":
        file.write_bytes(gzip.compress(text.encode()))
    else:
        rows = ladder.to_dict("records")
        texts = {
            "csv": "\ufeff" + text.replace(",", " , "),
            "tsv": text.replace(",", "\t"),
            "jsonl": "\n".join(map(json.dumps, rows)) + "\n",
            "json": json.dumps(rows, indent=1),
        }
        file.write_text(texts[suffix], encoding="utf-8")
    assert fitted(file, "--law", "chinchilla")["params"] == fitted(csv, "--law", "chinchilla")["params"]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_stdin_is_read_whatever_its_format(ladder, csv, kind):
    text = ladder.to_csv(index=False) if kind == "csv" else "\n".join(map(json.dumps, ladder.to_dict("records")))
    assert fitted("-", "--law", "chinchilla", input=text)["params"] == fitted(csv, "--law", "chinchilla")["params"]


def test_columns_of_other_names_are_named(ladder, csv, tmp_path):
    file = tmp_path / "short.csv"
    ladder.rename(columns={"params": "N", "tokens": "D", "loss": "val loss"}).to_csv(file, index=False)
    names = ["--params", "N", "--column", "tokens=D", "--loss", "val loss"]
    document = fitted(file, "--law", "chinchilla", *names)
    assert document["params"] == fitted(csv, "--law", "chinchilla")["params"]
    assert document["settings"]["columns"] == {"params": "N", "tokens": "D"}


def test_the_loss_column_is_by_default_named_like_what_the_law_predicts(tmp_path):
    file = tmp_path / "elo.csv"
    params = np.geomspace(1e4, 1e7, 8)
    elo = 100 * np.log10(params) + np.random.default_rng(0).normal(0, 3, 8)
    pd.DataFrame({"params": params, "elo": elo}).to_csv(file, index=False)
    assert fitted(file, "--law", "alphazero_elo")["params"]["alpha"] == pytest.approx(0.25, rel=0.05)


def test_a_condition_chooses_rows_and_says_how_many(csv):
    result = run(csv, "--law", "chinchilla", "--where", "tokens < 1e11 and family != 'a'", "--json")
    document = json.loads(result.stdout)
    assert document["diagnostics"]["points"] == 20
    assert "keeps 20 of 30 rows" in result.stderr


def test_settings_reach_the_fit(csv):
    document = fitted(
        csv,
        *("--law", "chinchilla", "--objective", "quantile", "--quantile", "0.4", "--space", "linear"),
        *("--fixed", "E=1.8", "--bounds", "alpha=0.2:0.5", "--weights", "count", "--groups", "family"),
        *("--bootstrap", "8", "--seed", "3", "--training", "schedule=cosine"),
    )
    settings = document["settings"]
    assert settings["objective"]["kind"] == "quantile"
    assert settings["objective"]["quantile"] == 0.4
    assert settings["space"] == "linear"
    assert settings["fixed"] == {"E": 1.8}
    assert settings["bounds"] == {"alpha": [0.2, 0.5]}
    assert settings["groups"] == "family"
    assert settings["seed"] == 3
    assert document["params"]["E"] == 1.8
    assert len(document["state"]["replicates"]) == 8
    assert document["report"]["training"]["schedule"] == "cosine"


def test_the_recipe_for_ladders_is_that_of_the_library(ladder, csv):
    document = fitted(csv, "--law", "coupled", "--ladder")
    assert document["params"] == dict(laws.fit_ladder(ladder).params)
    assert document["settings"]["weights"] == "frontier"
    own = fitted(csv, "--law", "coupled", "--ladder", "--delta", "0.01", "--weights", "count")
    assert own["settings"]["objective"]["delta"] == 0.01
    assert own["settings"]["weights"] == "count"


def test_laws_are_ranked_by_what_was_held_out(csv):
    shown = run(csv, "--law", "chinchilla", "--compare", "kaplan_params_tokens")
    assert "Held-out error of laws" in shown.stdout
    assert shown.stdout.index("chinchilla  ") < shown.stdout.index("kaplan_params_tokens  ")
    document = json.loads(run(csv, "--law", "chinchilla", "--compare", "kaplan_params_tokens", "--json").stdout)
    assert [row["law"] for row in document["comparison"]["rows"]] == ["chinchilla", "kaplan_params_tokens"]
    wrong = run(csv, "--law", "chinchilla", "--compare", "kaplann")
    assert wrong.exit_code == 2
    assert "There is no law 'kaplann'" in wrong.stderr


def test_another_level_gives_other_intervals(csv):
    wide, narrow = (
        {
            row["name"]: row["upper"] - row["lower"]
            for row in fitted(csv, "--law", "chinchilla", "--level", level)["estimates"]
        }
        for level in ("0.95", "0.5")
    )
    assert all(narrow[name] < wide[name] for name in TRUTH)
    assert "50 % interval" in run(csv, "--law", "chinchilla", "--level", "0.5").stdout


def test_options_make_the_law(tmp_path):
    file = tmp_path / "curve.csv"
    steps = np.geomspace(10, 1e4, 40)
    pd.DataFrame({"tokens": steps * 1e6, "loss": 2 + 5 * steps**-0.4}).to_csv(file, index=False)
    document = fitted(file, "--law", "m2", "--option", "over=tokens")
    assert document["params"]["c"] == pytest.approx(-0.4, rel=1e-3)


def test_a_law_that_knows_the_schedule_takes_the_rates_from_a_column(tmp_path):
    steps = np.arange(1, 401)
    rates = 3e-4 * np.where(steps > 250, 0.3, 1.0)
    truth = {"L0": 2.5, "A": 0.6, "alpha": 0.45, "C": 20.0, "lambda_": 0.98}
    loss = laws.get("tissue", rates=rates).evaluate(truth, steps=steps)
    table = pd.DataFrame({"steps": steps, "lr": rates, "loss": loss})
    table.loc[table.steps > 350, "loss"] = np.nan
    table.to_csv(tmp_path / "one.csv", index=False)
    found = fitted(tmp_path / "one.csv", "--law", "tissue", "--rates", "lr", "--where", "loss > 0")
    assert found["params"]["C"] == pytest.approx(truth["C"], rel=0.01)
    pd.concat([table.assign(run="x"), table.assign(run="y")]).to_csv(tmp_path / "two.csv", index=False)
    found = fitted(tmp_path / "two.csv", "--law", "tissue", "--rates", "lr", "--groups", "run")
    assert found["params"]["C"] == pytest.approx(truth["C"], rel=0.01)
    assert set(found["law"]["options"]["rates"]) == {"x", "y"}
    assert "--rates COLUMN" in run(tmp_path / "one.csv", "--law", "tissue").stderr


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("html", b"<!DOCTYPE html>")])
def test_a_figure_is_drawn_and_named(csv, tmp_path, suffix, start):
    file = tmp_path / f"out.{suffix}"
    result = run(csv, "--law", "chinchilla", "--plot", file)
    assert result.exit_code == 0
    assert f"Figure: {file}" in result.stderr
    assert file.read_bytes().startswith(start)


def test_a_page_without_plotly_is_one_sentence_on_how_to_get_it(csv, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)
    result = run(csv, "--law", "chinchilla", "--plot", tmp_path / "out.html")
    assert result.exit_code == 1
    assert "needs plotly" in result.stderr
    assert "pip install 'lightning-scaling[plots]'" in result.stderr


def test_a_weak_fit_is_printed_and_its_status_shown(tmp_path):
    file = tmp_path / "flat.csv"
    pd.DataFrame({"params": [1e8] * 8, "tokens": np.geomspace(1e9, 1e10, 8), "loss": np.linspace(3, 2.8, 8)}).to_csv(
        file
    )
    result = run(file, "--law", "chinchilla")
    assert result.exit_code == 0
    assert "alpha" in result.stdout
    status = fitted(file, "--law", "chinchilla")["status"]
    assert status != "ok"
    assert repr(status) in result.stderr
    assert f"Status {status}." in run(file, "--law", "chinchilla", "--json").stderr


def test_inputs_in_billions_are_doubted(ladder, tmp_path):
    file = tmp_path / "billions.csv"
    ladder.assign(params=ladder.params / 1e9, tokens=ladder.tokens / 1e9).to_csv(file, index=False)
    assert "billions" in run(file, "--law", "chinchilla").stdout
    assert "billions" in run(file, "--law", "chinchilla", "--json").stderr


def test_rows_that_cannot_be_used_are_counted(ladder, tmp_path):
    file = tmp_path / "gaps.csv"
    gaps = ladder.copy()
    gaps.loc[2:4, "loss"] = np.nan
    gaps.to_csv(file, index=False)
    assert "27 used of 30" in run(file, "--law", "chinchilla").stdout


def test_the_progress_bar_is_for_terminals_only(monkeypatch):
    for terminal, shown in ((False, True), (True, False), (True, True)):
        stderr = io.StringIO()
        monkeypatch.setattr(stderr, "isatty", lambda terminal=terminal: terminal, raising=False)
        monkeypatch.setattr(sys, "stderr", stderr)
        with progress_bar("bootstrap", 10, shown=shown) as update:
            update(advance=10)
        assert ("bootstrap" in stderr.getvalue()) == (terminal and shown)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty"),
        ("params,tokens,loss\n", "no rows"),
        (
            "N,tokens,loss\n1e8,1e9,3\n",
            "no column 'params' for params; it has N, tokens, loss. Name the column with --params",
        ),
        ("params,tokens,value\n1e8,1e9,3\n", "--loss COLUMN"),
        ("params,tokens,loss\n1e8,1e9,3\n2e8,many,3\n", "holds 'many' in row 2"),
        ("params,tokens,loss\n1e8,1e9,3\n", "cannot determine the 5 free parameters"),
        ("params,tokens,loss\n1e8,1e9,-3\n", "no usable point"),
        ("params,tokens,loss\n1,2,3\n1,2,3,4\n", "cannot be read as CSV"),
        ("params,tokens,loss\n1,2,3,4\n", "more fields than its header"),
        ('{"params": 1}\n{"params": \n', "line 2"),
        ("[1, 2]", "one object per row"),
    ],
)
def test_data_that_cannot_be_fitted_give_one_sentence(tmp_path, text, expected):
    file = tmp_path / "bad.csv"
    file.write_text(text)
    for args, more in (([file], {}), (["-"], {"input": text})):
        result = run(*args, "--law", "chinchilla", "--json", **more)
        assert result.exit_code == 2, result.output
        assert result.stdout == ""
        assert result.stderr.startswith("Error: ")
        assert expected in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--law", "chinchila"], "did you mean chinchilla"),
        (["--law", "chinchilla", "--flops", "C"], "flops is no input of chinchilla"),
        (["--law", "chinchilla", "--column", "depth=d"], "depth is no input"),
        (["--law", "chinchilla", "--column", "depth"], "`--column` must be NAME=VALUE"),
        (["--law", "chinchilla", "--fixed", "E"], "`--fixed` must be NAME=VALUE"),
        (["--law", "chinchilla", "--fixed", "E=low"], "`--fixed` of E must be a number"),
        (["--law", "chinchilla", "--fixed", "gamma=1"], "'gamma'"),
        (["--law", "chinchilla", "--bounds", "alpha=1"], "LOW:HIGH"),
        (["--law", "chinchilla", "--bounds", "alpha=0.5:0.2"], "lower < upper"),
        (["--law", "chinchilla", "--level", "95"], "--level"),
        (["--law", "chinchilla", "--quantile", "2", "--objective", "quantile"], "quantile"),
        (["--law", "chinchilla", "--delta", "0"], "delta"),
        (["--law", "chinchilla", "--weights", "mass"], "no column 'mass'"),
        (["--law", "chinchilla", "--groups", "mass"], "no column 'mass'"),
        (["--law", "chinchilla", "--where", "size > 3"], "cannot be evaluated"),
        (["--law", "chinchilla", "--where", "loss >"], "cannot be evaluated"),
        (["--law", "chinchilla", "--where", "loss > 100"], "No row"),
        (["--law", "chinchilla", "--rates", "lr"], "does not use learning rates"),
        (["--law", "chinchilla", "--plot", "out.bmp"], ".png, .svg, .pdf, .html"),
        (["--law", "chinchilla", "--save", "nowhere/fit.json"], "no folder nowhere"),
    ],
)
def test_a_wrong_request_gives_one_sentence(csv, args, expected):
    result = run(csv, *args)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert expected in result.stderr
    assert "Traceback" not in result.output
    assert len([line for line in result.stderr.splitlines() if line.startswith("Error: ")]) == 1


@pytest.mark.parametrize("args", [[], ["--delta", "much"], ["--bootstrap", "-1"], ["--objective", "cubes"]])
def test_wrong_usage_shows_how_it_goes(csv, args):
    law = ["--law", "chinchilla"] if args else []
    result = run(csv, *law, *args)
    assert result.exit_code == 2
    assert "Usage" in result.stderr


def test_missing_files_folders_and_binary_files_are_named(tmp_path):
    assert "There is no file" in run(tmp_path / "none.csv", "--law", "chinchilla").stderr
    assert "is a folder" in run(tmp_path, "--law", "chinchilla").stderr
    for content, expected in (
        (b"\x89PNG\xff\xfe", "not a text file"),
        (b"PAR1 but no more", "cannot be read as Parquet"),
        (b"\x1f\x8bbroken", "damaged"),
    ):
        file = tmp_path / "data"
        file.write_bytes(content)
        result = run(file, "--law", "chinchilla")
        assert result.exit_code == 2
        assert expected in result.stderr

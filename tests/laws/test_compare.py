"""Laws are ranked by points they have not seen."""

import numpy as np
import pytest
from planted import CASES
from planted_chinchilla import grid

from lightning_scaling import laws


def ladder(name="chinchilla", noise=0.002):
    case = CASES[name]
    inputs = grid(params=np.geomspace(2e7, 2e10, 8), tokens=np.geomspace(4e8, 2e12, 9))
    y = case.law.evaluate(case.truth, **inputs)
    return inputs | {"loss": y * np.exp(noise * np.random.default_rng(0).standard_normal(len(y)))}


def curve():
    steps = np.geomspace(50, 50_000, 60)
    y = 1.8 + 9.0 * steps**-0.45
    return {"steps": steps, "loss": y * np.exp(0.002 * np.random.default_rng(0).standard_normal(60))}


def test_the_law_behind_the_points_wins():
    table = ladder()
    names = ["kaplan_params_tokens", "chinchilla", "over_training"]
    found = laws.compare(table, names)
    assert found.best in ("chinchilla", "over_training")
    assert [row["name"] for row in found.table][-1] == "kaplan_params_tokens"
    assert found.table[0]["rmsle"] < 0.5 * found.table[-1]["rmsle"]
    assert found.table[0]["covered"] > 0.8
    assert found.by == "params x tokens"


def test_a_floor_is_seen_on_a_single_curve():
    found = laws.compare(curve(), ["m1", "m2"])
    assert found.best == "m2"
    assert found.by == "steps"
    assert found.table[1]["bias"] < 0


def test_the_order_of_the_rows_does_not_matter():
    table = ladder()
    mixed = np.random.default_rng(1).permutation(len(table["loss"]))
    first = laws.compare(table, ["chinchilla"])
    second = laws.compare({name: values[mixed] for name, values in table.items()}, ["chinchilla"])
    assert second.table[0]["rmsle"] == pytest.approx(first.table[0]["rmsle"], rel=1e-6)


def test_only_later_points_are_scored():
    table = curve()
    table["loss"][:24] *= 1.5
    spoilt = laws.compare(table, ["m2"], origins=[0.9])
    clean = laws.compare(curve(), ["m2"], origins=[0.9])
    assert spoilt.table[0]["held_out"] == clean.table[0]["held_out"] == 6
    assert clean.table[0]["median_error"] < 0.01


def test_left_to_itself_it_takes_every_law_that_fits_the_columns():
    table = curve()
    found = laws.compare(table)
    tried = {row["name"] for row in found.table} | set(found.skipped)
    assert {"m1", "m2", "m3", "m4", "bnsl"} <= tried
    assert "chinchilla" not in tried


def test_columns_order_and_options_are_taken():
    table = ladder()
    other = {"N": table["params"], "D": table["tokens"], "final": table["loss"], "cost": table["tokens"]}
    found = laws.compare(
        other,
        ["coupled"],
        "final",
        "cost",
        columns={"params": "N", "tokens": "D"},
        weights="frontier",
        priors="default",
    )
    assert found.by == "cost"
    assert found.table[0]["origins"] == 3
    given = laws.compare(table, ["chinchilla"], by=-table["tokens"])
    assert given.by == "the given values"


def test_what_cannot_be_scored_is_named_with_its_reason():
    table = ladder()
    found = laws.compare(table, ["chinchilla", "data_constrained", "farseer"], origins=[0.05])
    assert found.table == []
    assert found.skipped["data_constrained"] == "no column for unique_tokens"
    assert "too few points" in found.skipped["chinchilla"]
    with pytest.raises(ValueError, match="No law could be scored"):
        _ = found.best


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"origins": [0.0]}, "shares between 0 and 1"),
        ({"origins": []}, "shares between 0 and 1"),
        ({"names": ["tissue"]}, "No law has all its inputs"),
        ({"by": np.ones(3)}, "one value per point"),
        ({"by": "price"}, "no column 'price'"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments, message):
    data = {name: values for name, values in ladder().items() if name != "steps"}
    with pytest.raises(ValueError, match=message):
        laws.compare(data, **({"names": ["chinchilla"]} | arguments))


def test_the_summary_is_a_table_with_the_best_first():
    text = laws.compare(curve(), ["m1", "m2", "zhai"]).summary().splitlines()
    assert text[0].startswith("Held-out points, ordered by steps")
    assert text[3].startswith("m2")
    assert text[-1] == "left out: zhai: no column for flops"

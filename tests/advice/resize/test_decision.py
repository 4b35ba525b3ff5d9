import json

import numpy as np
import pytest

from lightning_scaling import Run
from lightning_scaling.advice.resize.decision import Resizing
from lightning_scaling.advice.resize.state import LadderTable, ModelState, Shape, ladder_table
from lightning_scaling.schedule.plan import Plan

E, A, ALPHA, B, BETA = 1.8, 482.0, 0.348, 2085.0, 0.366
SIZES = np.geomspace(2e7, 6e8, 6)
STEPS = 3000
PLAN = Plan([1, STEPS], [1e-3, 1e-3], total_steps=STEPS)


def chinchilla(params, tokens):
    return E + A / params**ALPHA + B / tokens**BETA


def made(params, tokens, law=chinchilla, *, rate=1e-3, until=1.0, off=1.0, **meta):
    """A run that reaches the law at its end, with 150 losses and a constant rate."""
    total = 2000
    step = np.unique(np.geomspace(1, total * until, 150).astype(int))
    loss = off * law(params, tokens * step / total)
    return Run(
        step,
        loss,
        np.full(len(step), rate),
        total_steps=total,
        planned_lr=([1, total], [rate, rate]),
        params=int(params),
        tokens_per_step=tokens / total,
        meta=meta,
    )


@pytest.fixture(scope="module")
def family():
    return [made(size, size * ratio) for size in SIZES for ratio in (5, 20, 80)]


def present(params, tokens, **known):
    return ModelState(params, tokens, **{"plan": PLAN, "tokens_per_step": tokens / 2000, **known})


def test_a_model_that_is_too_large(family):
    shape = {"shape": Shape(2048, 28, 16), "embedding": 2048 * 32000}
    advice = Resizing(present(1.5e9, 2e9, **shape), family).advise()
    assert advice.action == "resize"
    assert advice.reason == (
        "For 1.8e+19 FLOPs the 18 runs of the family put the best model at 355M parameters (90 % between 325M and "
        "387M) and 8.46B tokens; this run's 1.5B are 4.2 times too many and its 2B tokens 4.2 times too few, so that "
        "the better split would end 0.14 lower, or as low with 51% less compute; next, try 361M parameters on 8.46B "
        "tokens: width 1,280, 16 layers, 10 heads, peak learning rate 0.0045, 2.25M tokens a step, 3,760 steps (rate "
        "and batch by Step Law)."
    )
    best = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA)) * (3e18) ** (BETA / (ALPHA + BETA))
    assert advice.evidence["best"]["params"] == pytest.approx(best, rel=0.1)
    truth = chinchilla(1.5e9, 2e9) - chinchilla(best, 3e18 / best)
    assert advice.evidence["gain"] == pytest.approx(truth, rel=0.1)
    assert advice.saving == advice.evidence["compute_saved"]
    assert advice.cost == 0.0
    assert advice.confidence >= 0.9
    following = advice.evidence["next"]
    assert following["width"] == following["heads"] * 128
    assert following["steps"] * following["batch_tokens"] >= following["tokens"]
    json.dumps(advice.to_dict())


def test_a_model_that_is_too_small(family):
    advice = Resizing(present(3e7, 4e10, shaped=False), family).advise()
    assert advice.action == "resize"
    assert "this run's 30M are 7.4 times too few and its 40B tokens 7.4 times too many, so that" in advice.reason
    assert advice.evidence["next"]["width"] is None


def test_a_model_of_the_right_size(family):
    advice = Resizing(present(3e8, 6e9), family).advise()
    assert advice.action == "continue"
    assert advice.reason == (
        "For 1.08e+19 FLOPs the 18 runs of the family put the best model at 273M parameters (90 % between 254M and "
        "294M) and 6.6B tokens; this run's 300M waste less than 1% of the compute, too little to change anything."
    )


def test_a_factor_that_costs_little_is_no_reason_to_resize(family):
    resizing = Resizing(present(4.5e8, 4e9), family)
    assert 1.4 < resizing.advise().evidence["factor"] < 1.9
    assert resizing.advise().action == "continue"
    assert resizing.advise().code == "size_near_optimum"


def test_a_size_next_to_a_wide_interval_is_not_called_wrong(family):
    advice = Resizing(present(6e9, 6e9), family[::2], budget=2e22).advise()
    assert advice.action == "continue"
    assert advice.code == "size_uncertain"
    assert "this run's 6B are 2.2 times below that" in advice.reason
    assert advice.reason.endswith("times below that, too near the interval to call them wrong.")


def test_one_size_cannot_show_which_is_best():
    runs = [made(1e8, tokens) for tokens in np.geomspace(1e9, 1e10, 7)]
    advice = Resizing(present(1e8, 5e9, unit="samples"), runs).advise()
    assert advice.action == "continue"
    assert advice.reason == (
        "No advice on size: all 7 runs have about one size, and one size cannot show which is best."
    )
    grown = Resizing(present(1e8, 5e9, unit="samples"), runs).when_data_grows(2)
    assert grown.reason == advice.reason


def test_runs_without_sizes_are_not_used():
    bare = Run([1, 2, 3], [3.0, 2.0, 1.5], total_steps=3)
    for runs, said in (
        ([bare, bare], "No advice on size: none of the 2 past runs holds its size, its tokens and a falling loss."),
        ([bare], "No advice on size: the only past run does not hold its size, its tokens and a falling loss."),
    ):
        assert Resizing(present(1e8, 5e9, unit="samples"), runs).advise().reason == said


def test_two_estimates_that_contradict_each_other_give_no_advice():
    runs = []
    for flops, best in ((1e18, 3e7), (2e18, 4e7), (4e18, 5.6e7), (8e18, 8e7)):
        for ratio in np.geomspace(0.3, 3, 5):
            level = 2 + 30 * flops**-0.07
            loss = level * (1 + 0.08 * np.log(ratio) ** 2)
            runs.append((best * ratio, flops / 6 / best / ratio, loss))
    for ratio in np.geomspace(0.3, 3, 24):  # runs of budgets of their own, with their best at a far larger size
        flops = 1e18 * 8**ratio**0.2
        level = (2 + 30 * flops**-0.07) * 0.985
        runs.append((6e8 * ratio, flops / 6 / (6e8 * ratio), level * (1 + 0.08 * np.log(ratio) ** 2)))
    history = [
        made(size, tokens, lambda p, d, loss=loss, full=tokens: loss * (d / full) ** -0.05)
        for size, tokens, loss in runs
    ]
    advice = Resizing(present(1e8, 1e10), history).advise()
    assert advice.action == "continue"
    assert advice.code == "estimates_contradict"
    assert advice.reason.startswith("No advice on size: at 6e+18 FLOPs the frontier of the runs puts the best size at ")
    assert advice.reason.endswith(", which contradict each other.")


def test_runs_that_follow_no_law_are_no_ground_for_advice():
    rng = np.random.default_rng(0)
    runs = [made(s, s * r, off=np.exp(0.1 * rng.standard_normal())) for s in SIZES for r in (5, 20, 80)]
    advice = Resizing(present(1.5e9, 2e9), runs).advise()
    assert advice.code == "runs_scattered"
    assert advice.reason.startswith("No advice on size: the 18 runs of the family scatter by ")
    assert advice.reason.endswith(
        "% around what their sizes and data explain; settle their learning rates and batches first."
    )


def test_without_a_family_published_laws_speak_only_of_gross_errors():
    assert Resizing(present(6e8, 3e9)).advise().action == "continue"
    advice = Resizing(present(5e9, 3e9, shaped=False, loss=2.6)).advise()
    assert advice.action == "resize"
    assert advice.reason.startswith(
        "For 9e+19 FLOPs the published laws of language models put the best model at 809M parameters (90 % between "
        "326M and 2.01B) and 18.6B tokens; this run's 5B are 6.2 times too many"
    )


@pytest.mark.parametrize(
    ("known", "said"),
    [
        (
            {"unit": "samples"},
            "No advice on size: there are no past runs of the family to learn from, and published laws count tokens of "
            "text.",
        ),
        (
            {},
            "No advice on size: there are no past runs to learn from, and published laws begin at 1e+07 parameters and "
            "1e+08 tokens of text.",
        ),
        (
            {"mode": "max", "metric": "val_acc"},
            "No advice on size: `val_acc` is to be high, and laws of size and data are laws of losses.",
        ),
    ],
)
def test_what_cannot_be_judged_is_said(known, said):
    resizing = Resizing(ModelState(1e5, 1e6, **known))
    assert resizing.advise().reason == said
    assert resizing.when_data_grows(2).reason == said
    assert resizing.advise().action == "continue"


def test_a_budget_that_inference_uses_up(family):
    advice = Resizing(present(1e9, 1e9), family, budget=1e20, inference_tokens=6e10).advise()
    assert advice.reason == (
        "No advice on size: a model of 1B parameters leaves nothing of the 1e+20 FLOPs for training once its inference "
        "is paid."
    )


def test_inference_makes_a_model_too_large(family):
    plain = Resizing(present(6e8, 1.2e10), family).advise()
    loaded = Resizing(present(6e8, 1.2e10), family, inference_tokens=1e12).advise()
    assert loaded.evidence["factor"] > 1.25 * plain.evidence["factor"]


@pytest.mark.parametrize("factor", [0.5, 2, 4])
def test_a_model_grows_with_its_data_by_the_ratio_of_the_exponents(family, factor):
    advice = Resizing(present(3e8, 6e9), family).when_data_grows(factor)
    assert advice.action == "resize"
    lower, upper = advice.evidence["interval"]
    truth = factor ** (BETA / ALPHA)
    assert lower <= truth <= upper
    assert advice.evidence["growth"] == pytest.approx(truth, rel=0.1)


def test_growing_data_in_words(family):
    advice = Resizing(present(3e8, 6e9, shaped=False), family).when_data_grows(2)
    assert advice.reason == (
        "With x2 the data, 12B instead of 6B tokens, the 18 runs of the family let the best model grow by x2.08 (90 % "
        "between x2.02 and x2.13), from 247M to 512M parameters, and the compute by x4.15; this run has 300M; next, "
        "try 512M parameters on 12B tokens: peak learning rate 0.00084, 4.5M tokens a step, 2,667 steps (rate and "
        "batch by Step Law)."
    )


def test_a_growth_that_is_not_known(family):
    runs = [family[i] for i in (0, 3, 6, 9, 12, 15)]
    advice = Resizing(present(3e8, 6e9), runs).when_data_grows(10)
    assert advice.action == "continue"
    assert advice.reason == (
        "How a model should grow with x10 the data cannot be worked out from the 6 runs of the family: the interval is "
        "too wide."
    )


def test_repeats_come_before_size(family):
    advice = Resizing(present(3e8, 6e10), family, unique_tokens=3e9).advise()
    assert advice.action == "investigate"
    assert advice.reason == (
        "The plan goes 20 times over the 3B unique tokens, and 60B of them with repeats are worth about 35.7B new "
        "ones: find more data or train for fewer steps before changing the size of the model."
    )
    assert Resizing(present(3e8, 6e9), family, unique_tokens=3e9).advise().action == "continue"


def test_a_learning_rate_off_the_family_comes_before_size(family):
    fast = Plan([1, STEPS], [1e-2, 1e-2], total_steps=STEPS)
    advice = Resizing(present(3e8, 6e9, plan=fast), family).advise()
    assert advice.action == "investigate"
    assert advice.reason.startswith("The learning rate, 0.01, is ")
    assert " times the highest of the 9 better runs of the family, which would suggest about " in advice.reason
    assert advice.reason.endswith(" at this size and data: try that before changing the size of the model.")
    slow = Plan([1, STEPS], [3e-5, 3e-5], total_steps=STEPS)
    assert ", is 1/" in Resizing(present(3e8, 6e9, plan=slow), family).advise().reason


def test_a_batch_off_the_family_comes_before_size(family):
    advice = Resizing(present(3e8, 6e9, tokens_per_step=2e8), family).advise()
    assert advice.action == "investigate"
    assert advice.reason.startswith("The batch, 200M tokens a step, is ")
    assert advice.code == "batch_off_past_runs"


def test_unfinished_runs_enter_with_their_forecast(family):
    runs = [made(size, size * ratio, until=0.6 if ratio == 20 else 1.0) for size in SIZES for ratio in (5, 20, 80)]
    table = ladder_table(runs, PLAN)
    assert (len(table), table.unfinished, table.left_out) == (18, 6, 0)
    assert table.loss == pytest.approx([chinchilla(s, s * r) for s in SIZES for r in (5, 20, 80)], rel=0.01)
    advice = Resizing(present(1.5e9, 2e9), runs).advise()
    assert advice.action == "resize"
    assert "the 18 runs of the family (6 of them forecast) put" in advice.reason


def test_runs_that_never_got_far_or_lack_a_size_are_left_out(family):
    short = made(1e8, 1e9, until=0.1)
    bare = Run([1, 2, 3], [3.0, 2.0, 1.5], total_steps=3)
    assert ladder_table([*family, short, bare]).left_out == 2


def test_a_mixture_of_experts_is_judged_by_its_active_parameters():
    def law(total):
        return lambda params, tokens: chinchilla(params, tokens) * (total / params) ** -0.02

    runs = [
        made(size * spare, size * ratio, lambda p, d, s=size, t=spare: law(s * t)(s, d), active_params=size)
        for size in SIZES
        for ratio in (5, 20, 80)
        for spare in (4, 8)
    ]
    asked = present(6e9, 2e9, active_params=1.5e9, shaped=False)
    advice = Resizing(asked, runs).advise()
    assert advice.action == "resize"
    assert "the best model at 35" in advice.reason
    assert " active parameters (90 %" in advice.reason
    assert advice.reason.endswith(
        "; each doubling of all parameters at one active size lowers the family's loss by 1.4%."
    )
    dense = Resizing(present(6e9, 2e9, active_params=3e7), runs).advise()
    assert dense.reason == (
        "No advice on size: no run of the family has as large a share of its parameters active "
        "(`meta['active_params']`)."
    )


def tuned(params, tokens):
    return 0.9 + 900 * params**-0.3 * tokens**-0.12


def test_fine_tuning_compares_the_sizes_of_the_family():
    sizes = (1e8, 4e8, 1.6e9)
    runs = [made(size, tokens, tuned) for size in sizes for tokens in (1e7, 4e7, 1.6e8)]
    advice = Resizing(present(1e8, 1.6e8, shaped=False), runs, fine_tuning=True).advise()
    assert advice.action == "resize"
    assert advice.evidence["next"]["params"] == 1.6e9
    gain = tuned(1e8, 1.6e8) - tuned(1.6e9, 1e7)
    assert advice.evidence["gain"] == pytest.approx(gain, rel=0.05)
    assert advice.reason.startswith(
        "Among the sizes of the 9 fine-tuned runs of the family, 1.6B parameters tuned on 10M tokens with the same "
        "compute would end "
    )
    assert " lower than this run's 100M, or as low on " in advice.reason
    fits = Resizing(present(1.6e9, 1e7), runs, fine_tuning=True).advise()
    assert fits.action == "continue"
    assert fits.reason == (
        "Among the sizes of the 9 fine-tuned runs of the family none is surely better than this run's 1.6B parameters "
        "at the same compute."
    )


def test_more_data_for_fine_tuning_ask_for_no_larger_model():
    runs = [made(size, tokens, tuned) for size in (1e8, 4e8, 1.6e9) for tokens in (1e7, 4e7, 1.6e8)]
    advice = Resizing(present(4e8, 4e7), runs, fine_tuning=True).when_data_grows(2)
    assert advice.action == "continue"
    assert advice.reason == (
        f"With x2 the data this run would end at {tuned(4e8, 8e7):.4g} instead of {tuned(4e8, 4e7):.4g}; in "
        "fine-tuning size and data multiply, so the model need not grow with them."
    )


def test_fine_tuning_without_enough_runs():
    resizing = Resizing(present(4e8, 4e7), [made(1e8, 1e7, tuned)], fine_tuning=True)
    said = (
        "No advice on size: the law of fine-tuning needs 5 runs of the family with 2 sizes and 2 amounts of data, but "
        "there are 1 runs with 1 and 1."
    )
    assert resizing.advise().reason == said
    assert resizing.when_data_grows(2).reason == said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"budget": -1}, "`budget` must be a positive finite number"),
        ({"inference_tokens": -1}, "`inference_tokens` must be a finite number that is not negative"),
        ({"unique_tokens": 0}, "`unique_tokens` must be a positive finite number"),
        ({"least_cost": 1}, "`least_cost` must lie between 0 and 1"),
    ],
)
def test_wrong_numbers_are_refused(given, said):
    with pytest.raises(ValueError, match=said):
        Resizing(present(1e8, 1e9), **given)
    with pytest.raises(ValueError, match="`params` must be a positive"):
        ModelState(0, 1e9)
    with pytest.raises(ValueError, match="`factor` must be a positive"):
        Resizing(present(1e8, 1e9)).when_data_grows(0)


def test_runs_of_another_schedule_are_moved_to_the_present_one():
    falling = Plan(np.linspace(1, 2000, 81), 1e-3 * np.linspace(1, 0.02, 81), total_steps=2000)
    runs = []
    for size in SIZES:
        for ratio in (5, 20, 80):
            constant = made(size, size * ratio, off=1.02)
            runs.append(constant)
            if ratio != 20:
                annealed = 1 - 0.02 * (constant.step / 2000) ** 4
                runs.append(
                    Run(
                        constant.step,
                        constant.loss * annealed,
                        falling.at(constant.step),
                        total_steps=2000,
                        planned_lr=(falling.steps, falling.lr),
                        params=int(size),
                        tokens_per_step=constant.tokens_per_step,
                    )
                )
    table = ladder_table(runs, falling)
    truth = chinchilla(table.params, table.tokens)
    alone = ladder_table(runs)
    assert table.moved >= 18
    assert np.median(np.abs(np.log(table.loss / truth))) < 0.5 * np.median(np.abs(np.log(alone.loss / truth)))


def test_a_mistake_is_not_taken_for_missing_knowledge(monkeypatch, family):
    def fails(*_):
        raise ValueError("operands could not be broadcast together")

    monkeypatch.setattr(LadderTable, "tradeoff", fails)
    with pytest.raises(ValueError, match="broadcast"):
        Resizing(present(1.5e9, 2e9), family).advise()

import pytest

from lightning_scaling.advice.hints import learning_rate_hint
from lightning_scaling.engine.monitor import Monitor
from lightning_scaling.schedule import Plan


def test_a_rate_far_above_both_published_laws_is_hinted_at_in_full():
    assert learning_rate_hint(2e-2, 1e9, 2e10) == (
        "A hint: the peak learning rate of 0.02 is 20 times what published laws advise for language models of 1e+09 "
        "parameters on 2e+10 tokens (Step Law 0.001, DeepSeek 0.00096)."
    )


def test_a_rate_far_below_them_likewise():
    assert "is 1/19 of what published laws advise" in learning_rate_hint(5e-5, 1e9, 2e10)


@pytest.mark.parametrize(
    ("rate", "params", "tokens"),
    [(1e-3, 1e9, 2e10), (3e-3, 1e9, 2e10), (2e-2, 1e6, 2e10), (2e-2, 1e9, 1e6), (2e-2, None, 2e10), (2e-2, 1e9, None)],
)
def test_near_the_laws_or_beyond_where_they_were_measured_nothing_is_said(rate, params, tokens):
    assert learning_rate_hint(rate, params, tokens) == ""


def test_the_monitor_gives_the_hint_once_and_only_for_tokens():
    steps = list(range(1, 201))
    losses = [5 * step**-0.1 for step in steps]
    for unit, hints in (("tokens", 1), ("samples", 0)):
        monitor = Monitor(Plan([1, 1000], [2e-2, 2e-2], total_steps=1000), params=10**9)
        monitor.note({"unit": unit})
        updates = monitor.observe(steps, losses, tokens=[step * 2e7 for step in steps])
        assert sum("A hint" in update.advice.reason for update in updates) == hints

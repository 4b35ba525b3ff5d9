import io

import numpy as np
import pytest
from PIL import Image

from lightning_scaling import Run, replay_many
from lightning_scaling.backtest.single_run import Replay
from lightning_scaling.report.backtest_figures import CalibrationCurve, replay_figure, replay_many_figure


def pixels(png):
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def reddish(png):
    """Share of the pixels in the tint in which what is saved is drawn."""
    red, green, blue = np.moveaxis(pixels(png), -1, 0)
    return float(((red > 240) & (red - blue > 8) & (red - blue < 40) & (green < red)).mean())


def test_what_stopping_saves_is_tinted_from_the_step_of_the_advice(make_run):
    run = make_run()
    plain, early = (replay_figure(Replay.of(run, target=target)) for target in (None, 2.0))
    late = make_run(every=1, total=2000)
    loss = late.loss.copy()
    loss[1800:] = np.inf
    diverged = replay_figure(Replay.of(Run(late.step, loss, late.lr, total_steps=2000)))
    assert reddish(plain) == 0
    assert reddish(early) > 4 * reddish(diverged) > 0


def test_a_run_without_a_loss_cannot_be_drawn():
    with pytest.raises(ValueError, match="no finite loss to draw"):
        replay_figure(Replay.of(Run([1, 2, 3], [np.inf] * 3, total_steps=3)))


@pytest.mark.parametrize("count", [1, 9])
def test_the_errors_of_all_runs_are_drawn(make_run, count):
    made = replay_many([make_run(total=1000, seed=seed) for seed in range(count)], history=None)
    png = replay_many_figure(made)
    assert pixels(png).std() > 5
    assert png == replay_many_figure(made)


def test_runs_without_an_end_say_nothing(make_run):
    run = make_run(total=1000)
    short = Run(run.step[:50], run.loss[:50], run.lr[:50], total_steps=1000)
    made = replay_many([short], history=None)
    with pytest.raises(ValueError, match="No run reached the end of its plan"):
        replay_many_figure(made)
    assert len(CalibrationCurve.of([*made.replays, Replay.of(run)]).error) == 1


def test_coverage_counts_the_intervals_that_held(make_run):
    replays = [Replay.of(make_run(total=1000, seed=seed)) for seed in range(4)]
    found = CalibrationCurve.of(replays)
    half = [one.checks((0.5,))[0] for one in replays]
    at = int(np.argmin(np.abs(np.arange(0.05, 0.985, 0.01) - 0.5)))
    np.testing.assert_allclose(found.error[:, at], [check.error for check in half])
    assert found.covered(0.9)[at] == np.mean([check.inside for check in half])
    np.testing.assert_allclose(
        found.wide[:, at], [(check.upper - check.lower) / 2 / check.outcome for check in half], rtol=1e-9
    )
    assert (found.half < found.wide)[np.isfinite(found.wide)].all()

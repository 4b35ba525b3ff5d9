import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from lightning_scaling import laws
from lightning_scaling.report.law_figures import fit_figure, fit_page, write_figure


def grid(**axes):
    mesh = np.meshgrid(*axes.values())
    return {name: values.ravel() for name, values in zip(axes, mesh, strict=True)}


def fit_of(name, truth, inputs, noise=0.004, output="loss", **options):
    law = laws.get(name, **options)
    y = law.evaluate(truth, **inputs)
    e = noise * np.random.default_rng(0).standard_normal(y.shape)
    y = y * np.exp(e) if law.space == "log" else y + e
    return law.fit({**inputs, output: y}, output)


CHINCHILLA = {"E": 1.8, "A": 480.0, "alpha": 0.35, "B": 2000.0, "beta": 0.37}
LADDER = grid(params=np.geomspace(5e7, 5e9, 5), tokens=np.geomspace(1e9, 2e11, 6))
STEPS = {"steps": np.geomspace(10, 3000, 40)}
M2 = {"eps_inf": 2.0, "beta": 5.0, "c": -0.4}
REPEATS = {"E": 1.87, "A": 521.0, "alpha": 0.35, "B": 1490.0, "beta": 0.35, "R_D_star": 15.4, "R_N_star": 5.3}


@pytest.fixture(scope="module")
def ladder():
    return fit_of("chinchilla", CHINCHILLA, LADDER)


@pytest.fixture(scope="module")
def curve():
    return fit_of("m2", M2, STEPS)


def data_of(page):
    """The traces of a page."""
    start = re.search(r'Plotly\.newPlot\(\s*"fit",\s*', page).end()
    return json.JSONDecoder().raw_decode(page[start:])[0]


def texts(axes):
    return [text.get_text() for text in axes.texts]


def reach(figure):
    """Right end of everything drawn as a line."""
    return max(np.max(line.get_xdata()) for line in figure.axes[0].lines if len(line.get_xdata()) > 2)


def test_a_curve_shows_points_law_band_and_what_lies_beyond(curve):
    figure = fit_figure(curve)
    above, below = figure.axes
    assert above.get_xlabel() == ""
    assert below.get_xlabel() == "optimizer steps"
    assert above.get_ylabel() == "loss"
    assert "%" in below.get_ylabel()
    assert len(above.collections[-1].get_offsets()) == len(STEPS["steps"])
    assert "beyond the points" in texts(above)
    assert reach(figure) > 3 * STEPS["steps"].max()
    assert len({tuple(c.get_facecolor()[0]) for c in above.collections[:-1]}) == 2


def test_the_heading_holds_formula_and_exponents_with_intervals(ladder):
    said = "\n".join(texts(fit_figure(ladder).axes[0]))
    assert "loss = E + A/params^alpha + B/tokens^beta" in said
    low, high = ladder.conf_int()["alpha"]
    assert f"alpha {ladder.params['alpha']:#.3g} ({low:#.3g} to {high:#.3g})" in said
    assert "[95%]" in said
    assert "[50%]" in "\n".join(texts(fit_figure(ladder, level=0.5).axes[0]))


def test_a_ladder_is_drawn_against_compute_with_a_curve_per_size_and_the_frontier(ladder):
    figure = fit_figure(ladder)
    above = figure.axes[0]
    assert "FLOPs" in figure.axes[1].get_xlabel()
    assert [text.get_text() for text in above.get_legend().get_texts()] == ["5B", "1.58B", "500M", "158M", "50M"]
    compute = 6 * LADDER["params"] * LADDER["tokens"]
    assert sorted(above.collections[-1].get_offsets()[:, 0]) == pytest.approx(sorted(compute))
    assert "compute-optimal" in texts(above)
    assert reach(figure) == pytest.approx(10 * compute.max())


def test_the_frontier_lies_below_all_curves_and_tells_how_to_get_there(ladder):
    lines = [line for line in fit_figure(ladder).axes[0].lines if len(line.get_xdata()) > 2]
    best = max(lines, key=lambda line: line.get_xdata()[-1] / line.get_xdata()[0])
    x, y = (np.log(values) for values in best.get_data())
    for line in lines[:5]:
        at, loss = (np.log(values) for values in line.get_data())
        assert np.all(loss >= np.interp(at, x, y) - 0.002)
    [there, *_] = [trace for trace in data_of(fit_page(ladder)) if trace.get("name") == "compute-optimal"]
    assert all("params" in text and "tokens" in text for text in there["text"])


def test_many_sizes_are_gathered_into_a_few_curves():
    rng = np.random.default_rng(1)
    inputs = {"params": np.geomspace(1e7, 1e10, 60), "tokens": rng.permutation(np.geomspace(1e9, 1e12, 60))}
    figure = fit_figure(fit_of("chinchilla", CHINCHILLA, inputs))
    assert len(figure.axes[0].get_legend().get_texts()) <= 8


def test_other_inputs_get_curves_of_their_own_or_are_held_at_their_median():
    few = grid(params=[1e8, 1e9, 4e9], tokens=np.geomspace(4e9, 4e11, 5), unique_tokens=[1e9, 4e9])
    figure = fit_figure(fit_of("data_constrained", REPEATS, few))
    assert "a curve per size and unique_tokens" in texts(figure.axes[0])
    many = grid(params=[1e8, 1e9, 4e9], tokens=[4e10, 4e11], unique_tokens=np.geomspace(1e9, 4e10, 12))
    figure = fit_figure(fit_of("data_constrained", REPEATS, many))
    assert "a curve per size, unique_tokens at the median" in texts(figure.axes[0])


def test_a_size_and_steps_are_drawn_against_steps():
    truth = {"N_c": 6.5e13, "alpha_N": 0.077, "S_c": 2.1e3, "alpha_S": 0.76}
    fit = fit_of("kaplan_params_steps", truth, grid(params=[1e6, 1e7, 1e8], steps=np.geomspace(1e3, 1e5, 8)))
    figure = fit_figure(fit)
    assert figure.axes[1].get_xlabel() == "optimizer steps"
    assert len(figure.axes[0].get_legend().get_texts()) == 3
    assert "compute-optimal" not in texts(figure.axes[0])


def test_other_laws_are_drawn_as_observed_against_the_law():
    share = np.linspace(0, 1, 12)
    fit = fit_of("ye_mixing", {"c": 1.0, "k": 2.0, "t_first": -0.7}, {"first": share, "second": 1 - share})
    figure = fit_figure(fit)
    above, below = figure.axes
    assert below.get_xlabel() == "loss by the law"
    assert list(above.collections[-1].get_offsets()[:, 0]) == pytest.approx(
        list(fit.predict(first=share, second=1 - share))
    )


def test_plain_residuals_are_drawn_plainly():
    inputs = {"params": np.geomspace(1e4, 1e7, 9)}
    fit = fit_of("alphazero_elo", {"alpha": 0.25, "constant": -300.0}, inputs, noise=5.0, output="elo")
    above, below = fit_figure(fit).axes
    assert below.get_ylabel() == "observed - law"
    assert above.get_yscale() == "linear"


def test_a_law_with_a_schedule_is_drawn_to_the_end_of_it():
    rates = 3e-4 * np.where(np.arange(1, 401) > 250, 0.3, 1.0)
    truth = {"L0": 2.5, "A": 0.6, "alpha": 0.45, "C": 20.0, "lambda_": 0.98}
    fit = fit_of("tissue", truth, {"steps": np.arange(20.0, 300.0, 5.0)}, rates=rates)
    assert reach(fit_figure(fit)) == pytest.approx(400)


def test_a_few_far_residuals_do_not_hide_the_rest():
    law = laws.get("m2")
    loss = law.evaluate(M2, **STEPS) * np.exp(0.003 * np.random.default_rng(0).standard_normal(40))
    loss[[7, 20]] *= [1.5, 0.6]
    figure = fit_figure(law.fit({**STEPS, "loss": loss}))
    below = figure.axes[1]
    assert below.get_ylim()[1] < 10
    assert "2 beyond the edge" in texts(below)
    assert sum(len(marks.get_offsets()) for marks in below.collections) == 40


def test_a_doubtful_fit_is_marked_so():
    inputs = grid(params=[1e8], tokens=np.geomspace(1e9, 1e11, 8))
    fit = fit_of("chinchilla", CHINCHILLA, inputs)
    assert not fit.ok
    assert f"status: {fit.status}" in texts(fit_figure(fit).axes[0])
    assert f"status: {fit.status}" in fit_page(fit)


@pytest.mark.parametrize("points", [5, 6])
def test_points_that_leave_nothing_to_estimate_errors_from_are_drawn_without_a_band(points):
    inputs = {"params": np.geomspace(1e8, 1e10, points), "tokens": np.geomspace(1e11, 1e9, points)}
    assert fit_figure(fit_of("chinchilla", CHINCHILLA, inputs)).axes
    assert fit_figure(fit_of("m2", M2, {"steps": np.geomspace(10, 100, points - 2)})).axes


def test_narrow_and_zero_ranges_are_drawn_on_a_linear_axis():
    fit = fit_of("m2", M2, {"steps": np.linspace(900, 1100, 12)}, noise=1e-5)
    assert fit_figure(fit).axes[0].get_xscale() == "linear"
    figure = fit_figure(fit_of("m2", M2, {"steps": np.full(6, 100.0)}))
    assert figure.axes[0].get_xscale() == "linear"


def test_very_many_points_are_thinned_and_said_so(monkeypatch):
    monkeypatch.setattr("lightning_scaling.report.fit_chart.MOST_POINTS", 500)
    fit = fit_of("m2", M2, {"steps": np.arange(10.0, 2010.0)})
    figure = fit_figure(fit)
    assert len(figure.axes[0].collections[-1].get_offsets()) == 500
    assert any("500 of 2,000 points drawn" in text for text in texts(figure.axes[0]))


def test_published_constants_cannot_be_drawn():
    with pytest.raises(ValueError, match="no points to draw"):
        fit_figure(laws.get("chinchilla").known())


def test_a_page_needs_no_network_and_tells_every_point(ladder):
    page = fit_page(ladder)
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=", page)
    assert "95 % interval" in page
    traces = data_of(page)
    marks = [trace for trace in traces if trace["mode"] == "markers"]
    assert len(marks) == 2
    assert len(marks[0]["text"]) == len(LADDER["params"])
    for word in ("params 50M", "tokens 1B", "loss ", "law ", "off by "):
        assert word in marks[0]["text"][0]


def test_names_in_a_page_cannot_break_it():
    share = np.linspace(0, 1, 8)
    law = laws.get("ye_mixing", domains=["a", "b"])
    fit = law.fit({"a": share, "b": 1 - share, "loss": 1 + 2 * np.exp(-0.7 * share)})
    object.__setattr__(fit, "message", "<script>alert(1)</script>")
    assert "<script>alert" not in fit_page(fit)


@pytest.mark.parametrize("ending", ["png", "svg", "pdf", "html"])
def test_a_file_is_the_same_for_the_same_fit(curve, tmp_path, ending):
    first, second = (write_figure(curve, tmp_path / f"{name}.{ending}") for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    if ending == "png":
        with Image.open(first) as image:
            assert image.size == (1440, 1024)


def test_an_unknown_ending_is_refused(curve, tmp_path):
    with pytest.raises(ValueError, match=r"\.png, \.svg, \.pdf, \.html, but got 'out.bmp'"):
        write_figure(curve, tmp_path / "out.bmp")


def test_drawing_loads_plotly_only_for_pages_and_touches_no_global_state():
    code = (
        "import sys\n"
        "from lightning_scaling import laws\n"
        "import lightning_scaling.report.law_figures as report\n"
        "assert 'matplotlib' not in sys.modules\n"
        "steps = [10.0, 20.0, 40.0, 80.0, 160.0]\n"
        "fit = laws.get('m1').fit({'steps': steps, 'loss': [5 * s ** -0.2 for s in steps]})\n"
        "report.fit_figure(fit)\n"
        "assert not {'matplotlib.pyplot', 'plotly'} & set(sys.modules)\n"
        "import matplotlib\n"
        "assert matplotlib.rcParams['font.size'] == matplotlib.rcParamsDefault['font.size']\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

"""The minimiser, its objectives and its starts, on problems whose answers are known."""

import numpy as np
import pytest
from scipy.optimize import linprog, nnls
from scipy.optimize import minimize as scipy_minimize

from lightning_scaling.laws.solvers.levenberg import minimize
from lightning_scaling.laws.solvers.objectives import Objective
from lightning_scaling.laws.solvers.resample import block_length, draw_weights
from lightning_scaling.laws.solvers.starts import cover, solve_linear

FREE = np.array([-np.inf, -np.inf])


def linear(x, y):
    jac = np.stack([np.ones_like(x), x])

    def model(u, rows):
        target = y if y.ndim == 1 else y[rows]
        return u[:, :1] + u[:, 1:] * x - target, np.broadcast_to(jac, (len(u), 2, len(x))).copy()

    return model


def test_least_squares_is_exact_on_a_line():
    x = np.arange(10.0)
    found = minimize(
        linear(x, 3 - 2 * x), np.zeros((1, 2)), FREE, -FREE, Objective("least_squares"), np.ones(10), reach=50
    )
    assert found.u[0] == pytest.approx([3, -2])
    assert found.converged.all()


@pytest.mark.parametrize("kind", ["huber", "quantile"])
@pytest.mark.parametrize("delta", [1e-3, 0.1])
def test_robust_objectives_reach_the_optimum_that_scipy_finds(kind, delta):
    rng = np.random.default_rng(3)
    x = rng.uniform(0, 1, 60)
    y = 1 + 2 * x + 0.05 * rng.standard_t(2, 60)
    objective = Objective(kind, delta, 0.7)
    ours = minimize(linear(x, y), np.zeros((1, 2)), FREE, -FREE, objective, np.ones(60))

    def total(u):
        return objective.rho(u[0] + u[1] * x - y).sum()

    rival = min(
        (
            scipy_minimize(
                total, [a, b], method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-14, "maxiter": 4000}
            )
            for a in (0, 1)
            for b in (1, 2)
        ),
        key=lambda r: r.fun,
    )
    assert ours.value[0] <= rival.fun * (1 + 1e-7)


def test_a_tiny_delta_is_least_absolute_deviations():
    rng = np.random.default_rng(1)
    x, n = rng.uniform(0, 1, 41), 41
    y = 1 + 2 * x + rng.standard_normal(n)
    found = minimize(linear(x, y), np.zeros((1, 2)), FREE, -FREE, Objective("huber", 1e-6), np.ones(n))
    design = np.stack([np.ones(n), x], axis=1)
    program = linprog(
        np.r_[np.zeros(4), np.ones(2 * n)],
        A_eq=np.hstack([design, -design, np.eye(n), -np.eye(n)]),
        b_eq=y,
    )
    assert found.value[0] / 1e-6 == pytest.approx(program.fun, rel=1e-4)


def test_bounds_hold_and_equal_bounds_fix():
    x = np.arange(10.0)
    y = np.stack([3 - 2 * x, 3 - 2 * x])
    lower, upper = np.array([[0.0, -1.0], [1.0, -9.0]]), np.array([[9.0, 9.0], [1.0, 9.0]])
    found = minimize(
        linear(x, y), np.zeros((2, 2)), lower, upper, Objective("least_squares"), np.ones((2, 10)), reach=50
    )
    assert found.u[0, 1] == -1.0
    assert found.u[1, 0] == 1.0
    assert found.u[1, 1] == pytest.approx(np.sum((3 - 1 - 2 * x) * x) / np.sum(x * x))


def test_points_without_weight_and_residuals_that_overflow_do_no_harm():
    x = np.arange(10.0)
    y = 3 - 2 * x
    y[4] = 1e6
    weights = np.ones(10)
    weights[4] = 0.0
    found = minimize(linear(x, y), np.zeros((1, 2)), FREE, -FREE, Objective("least_squares"), weights, reach=50)
    assert found.u[0] == pytest.approx([3, -2])

    def explosive(u, rows):
        with np.errstate(over="ignore"):
            r = np.exp(u[:, :1] * x) - np.exp(0.5 * x)
            return r, (x * np.exp(u[:, :1] * x))[:, None, :]

    bad = minimize(explosive, np.array([[900.0], [0.1]]), FREE[:1], -FREE[:1], Objective("least_squares"), np.ones(10))
    assert np.isinf(bad.value[0])
    assert not bad.converged[0]
    assert bad.u[1, 0] == pytest.approx(0.5)


def test_the_solver_of_signed_coefficients_agrees_with_nnls():
    rng = np.random.default_rng(0)
    for _ in range(50):
        a, b = rng.standard_normal((12, 3)), rng.standard_normal(12)
        found, fall = solve_linear(a.T @ a, a.T @ b, np.zeros(3, dtype=bool))
        expected, norm = nnls(a, b)
        assert found == pytest.approx(expected, abs=1e-8)
        assert b @ b - fall == pytest.approx(norm**2)
        free, _ = solve_linear(a.T @ a, a.T @ b, np.ones(3, dtype=bool))
        assert free == pytest.approx(np.linalg.lstsq(a, b, rcond=None)[0], abs=1e-8)


@pytest.mark.parametrize("sides", [1, 2, 3, 5])
def test_a_cover_leaves_no_large_hole_and_is_always_alike(sides):
    points = cover([(0.1, 10.0)] * sides)
    assert points.min() >= 0.1
    assert points.max() <= 10.0
    np.testing.assert_array_equal(points, cover([(0.1, 10.0)] * sides))
    where = np.log10(points)
    probes = np.random.default_rng(0).uniform(-1, 1, (200, sides))
    nearest = np.min(np.max(np.abs(where[None] - probes[:, None]), axis=2), axis=1)
    assert nearest.max() < 2.5 * len(points) ** (-1 / sides)


def test_bootstrap_weights_keep_runs_and_blocks_together():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(5), 4)
    drawn = draw_weights(rng, 50, np.ones(20), groups)
    assert np.all(np.ptp(drawn.reshape(50, 5, 4), axis=2) == 0)
    assert np.all(drawn[:, ::4].sum(axis=1) == 5)
    blocks = draw_weights(rng, 300, np.ones(30), None, block=6)
    assert np.all(blocks.sum(axis=1) == 30)
    neighbours = np.corrcoef(blocks[:, :-1].ravel(), blocks[:, 1:].ravel())[0, 1]
    assert neighbours > 0.6
    assert block_length(0.0, 100) == 1
    assert 1 < block_length(0.5, 100) < block_length(0.9, 100) <= 25

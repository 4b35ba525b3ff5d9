"""IsoFLOP minima: the optimal size at each budget, estimated from the runs themselves."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_scaling._utils.enums import StrEnum
from lightning_scaling._utils.formatting import count
from lightning_scaling._utils.validation import positive, probability
from lightning_scaling.allocation.checks import columns
from lightning_scaling.allocation.drifting_power_law import DRIFT, EXPONENT, SCATTER, DriftingPowerLaw, normal_quantile
from lightning_scaling.allocation.isoflop_profile import WIDTH, fit_isoflop_profiles
from lightning_scaling.allocation.task import dense_flops_per_token

Array = NDArray[np.float64]


class MinimaStatus(StrEnum):
    """How well runs show the minima of their budgets."""

    OK = "ok"
    FEW_BUDGETS = "few_budgets"
    NO_MINIMUM = "no_minimum"


_FEWEST_BUDGETS = 3
_FEWEST_SIZES = 3
_WIDEST_BUDGET = 0.25
_LARGEST_SD = 0.7


@dataclass(frozen=True, eq=False)
class IsoflopMinima:
    """Optimal sizes by budget, and the power law through them.

    Attributes:
        flops: Budgets with at least three sizes, ascending, shape ``(b,)``.
        params: Size with the least loss at each, same shape.
        tokens: Tokens there, same shape.
        loss: Least loss, same shape.
        sd: Standard deviation of ln params, same shape.
        curvature: Second derivative of loss / least loss in ln params, same shape.
        inside: Whether the minimum lies between the smallest and the largest size run at that budget and is known to a
            factor of two; only such budgets enter the power law. Shape ``(b,)``.
        points: Runs per budget, same shape.
        skipped: Budgets left out with the reason.
        noise: Relative scatter of a loss near the minimum.
        skew: Asymmetry of the profiles: 0 when both sides are equally steep in ln params.
        coefficient: ``G`` of the plain weighted power law ``params = G * flops^a`` through all minima inside; nan
            without two of them.
        slope: Its exponent ``a``.
        slope_sd: Standard error of `slope`.
        status: ``"ok"``, ``"few_budgets"`` (fewer than three with a minimum inside: the exponent is mostly the prior)
            or ``"no_minimum"`` (none: there is no optimum).
        message: What lies behind it, in sentences.
    """

    flops: Array
    params: Array
    tokens: Array
    loss: Array
    sd: Array
    curvature: Array
    inside: NDArray[np.bool_]
    points: NDArray[np.int64]
    skipped: tuple[tuple[float, str], ...]
    noise: float
    skew: float
    coefficient: float
    slope: float
    slope_sd: float
    status: MinimaStatus
    message: str
    _growth: DriftingPowerLaw | None = field(repr=False)

    @property
    def exponent(self) -> float:
        """Local exponent at the largest budget: d ln params / d ln flops; nan without a minimum."""
        return self._growth.exponent()[0] if self._growth else float("nan")

    def exponent_interval(self, level: float = 0.9) -> tuple[float, float]:
        """Interval of :attr:`exponent`."""
        if self._growth is None:
            return float("nan"), float("nan")
        mean, sd = self._growth.exponent()
        half = normal_quantile(probability("level", level)) * sd
        return mean - half, mean + half

    def params_at(self, flops: ArrayLike) -> Array:
        """Optimal sizes at budgets, of their shape; nan without a minimum."""
        budgets = np.asarray(flops, dtype=np.float64)
        if np.any(~(budgets > 0)):
            raise ValueError("`flops` must be positive budgets, counted in units of one.")
        return np.exp(self._log_at(budgets.ravel())[0]).reshape(budgets.shape)

    def interval(self, flops: float, level: float = 0.9) -> tuple[float, float]:
        """Interval of the optimal size at a budget; it widens with the distance from the budgets run."""
        mean, sd = (float(value[0]) for value in self._log_at(np.array([positive("flops", flops)])))
        half = normal_quantile(probability("level", level)) * sd
        return float(np.exp(mean - half)), float(np.exp(mean + half))

    def log_size(self, log_flops: ArrayLike) -> tuple[Array, Array]:
        """Mean and standard deviation of the logarithm of the optimal size at ln flops; nan without a minimum."""
        at = np.asarray(log_flops, dtype=np.float64)
        mean, sd = self._log_at(np.exp(at.ravel()))
        return mean.reshape(at.shape), sd.reshape(at.shape)

    def _log_at(self, flops: Array) -> tuple[Array, Array]:
        if self._growth is None:
            return np.full(flops.shape, np.nan), np.full(flops.shape, np.nan)
        return self._growth.at(np.log(flops))

    def summary(self) -> str:
        """A table for people: one line per budget, then the power law."""
        lines = [
            f"IsoFLOP minima: {self.status.replace('_', ' ')}",
            f"{'flops':>10}{'params':>10}{'+-':>7}{'tokens':>10}{'loss':>9}{'runs':>6}",
        ]
        rows = zip(self.flops, self.params, self.sd, self.tokens, self.loss, self.points, self.inside, strict=True)
        for flops, params, sd, tokens, loss, points, inside in rows:
            if inside:
                lines.append(f"{flops:>10.3g}{count(params):>10}{sd:>7.1%}{count(tokens):>10}{loss:>9.4f}{points:>6}")
            else:
                lines.append(f"{flops:>10.3g}{'no minimum inside':>27}{loss:>9.4f}{points:>6}")
        if math.isfinite(self.slope):
            error = f" +- {self.slope_sd:.3f}" if math.isfinite(self.slope_sd) else ""
            lower, upper = self.exponent_interval()
            lines.append(f"params = {self.coefficient:.4g} * flops^{self.slope:.4f}{error} over all budgets")
            lines.append(
                f"exponent at {self.flops[-1]:.3g} FLOPs: {self.exponent:.3f} (90%: {lower:.3f} to {upper:.3f})"
            )
        if self.message:
            lines.append(self.message)
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The minima as builtins.

        Keys: the attributes by name, arrays as lists; ``exponent``; ``exponent_interval`` (both ends at 90 %).
        """
        own: dict[str, Any] = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(self).items()}
        del own["_growth"]
        result = own | {"exponent": self.exponent, "status": self.status.value}
        skipped = [list(item) for item in self.skipped]
        return result | {"exponent_interval": list(self.exponent_interval()), "skipped": skipped}


def isoflop_minima(
    params: Any,
    loss: Any,
    *,
    flops: Any = None,
    tokens: Any = None,
    flops_per_token: Callable[[Array], Array] | None = None,
    tolerance: float = 0.05,
    width: float = WIDTH,
    prior: tuple[float, float] | None = EXPONENT,
    drift: float = DRIFT,
    scatter: float = SCATTER,
) -> IsoflopMinima:
    r"""Approach 2: the minimum of the loss over sizes at each budget, and ``params = G * flops^a`` through the minima.

    Hoffmann et al. 2022 (arXiv 2203.15556), section 3.2, made robust: curvature and skew of the profiles are shared by
    all budgets, runs far above the least loss of their budget hardly count, and a budget whose minimum lies at the edge
    of its grid is reported and left out (``fit_isoflop_profiles``). The exponent may drift with compute, which gives
    recent budgets more weight and lets intervals grow with the distance
    (:class:`lightning_scaling.allocation.drifting_power_law.DriftingPowerLaw`).

    Args:
        params: Size of each run, shape ``(n,)``.
        loss: Its final loss, shape ``(n,)``.
        flops: Its training compute, nominal or exact, shape ``(n,)``; this or `tokens`.
        tokens: Its training tokens, shape ``(n,)``; compute is then ``flops_per_token(params) * tokens``.
        flops_per_token: FLOPs per training token as a function of the sizes; left out, ``6 * params``.
        tolerance: Runs belong to one budget when their compute, sorted, has no gap above this fraction. Where compute
            scatters within a budget the losses are brought to its mean along the slope of the least losses.
        width: Excess over the least loss of its budget, as a fraction, at which a run counts half.
        prior: Mean and standard deviation of the exponent at the largest budget before any run is seen, or None.
        drift: How far the exponent wanders per unit of ln flops, as a standard deviation; 0 for a strict power law.
        scatter: Scatter of ln params around the power law beyond the estimated errors.

    Returns:
        The minima; with a status, never an exception, where the runs show none.

    Raises:
        ValueError: A column is not of positive finite numbers or their lengths differ; both or none of `flops` and
            `tokens` are given; or no budget has three sizes.
    """
    if (flops is None) == (tokens is None):
        raise ValueError("Give the compute of each run as `flops`, or its `tokens`: one of the two.")
    given = {"params": params, "loss": loss} | ({"flops": flops} if tokens is None else {"tokens": tokens})
    table = columns(**given)
    for name, values in table.items():
        if np.size(worst := values[~(np.isfinite(values) & (values > 0))]):
            raise ValueError(
                f"`{name}` must be positive and finite in every run, but holds {worst[0]:g}; leave such runs out."
            )
    per_token = flops_per_token or dense_flops_per_token
    size, y = table["params"], table["loss"]
    compute = table["flops"] if tokens is None else np.asarray(per_token(size)) * table["tokens"]
    keep, group, log_flops, skipped = _budgets(size, compute, positive("tolerance", tolerance))
    y = _at_mean_compute(y[keep], np.log(compute[keep]), group, log_flops)
    x = np.log(size[keep])
    profiles = fit_isoflop_profiles(x, y, group, log_flops, positive("width", width))
    sd = np.sqrt(np.diag(profiles.cov))
    ends = np.array([(x[group == j].min(), x[group == j].max()) for j in range(len(log_flops))])
    inside = (profiles.optimum > ends[:, 0]) & (profiles.optimum < ends[:, 1]) & (sd < _LARGEST_SD)
    budgets_inside, cov = (log_flops[inside], profiles.optimum[inside]), profiles.cov[np.ix_(inside, inside)]
    growth = DriftingPowerLaw(*budgets_inside, cov, prior, drift, scatter) if np.any(inside) else None
    coefficient, slope, slope_sd = _line(*budgets_inside, sd[inside], scatter)
    best, budgets = np.exp(profiles.optimum), np.exp(log_flops)
    status, message = _verdict(budgets, profiles.optimum, ends, inside, skipped)
    return IsoflopMinima(
        flops=budgets,
        params=best,
        tokens=budgets / np.asarray(per_token(best)),
        loss=profiles.level,
        sd=sd,
        curvature=profiles.curvature,
        inside=inside,
        points=np.bincount(group, minlength=len(budgets)),
        skipped=tuple(skipped),
        noise=profiles.noise,
        skew=profiles.skew,
        coefficient=coefficient,
        slope=slope,
        slope_sd=slope_sd,
        status=status,
        message=message,
        _growth=growth,
    )


def _budgets(
    size: Array, compute: Array, tolerance: float
) -> tuple[NDArray[np.intp], NDArray[np.intp], Array, list[tuple[float, str]]]:
    """Rows kept, the budget of each, ln of the budgets, and which were left out."""
    log_compute = np.log(compute)
    order = np.argsort(log_compute, kind="stable")
    starts = np.flatnonzero(np.diff(log_compute[order]) > np.log1p(tolerance)) + 1
    rows, numbers = [], []
    means: list[float] = []
    skipped: list[tuple[float, str]] = []
    for members in np.split(order, starts):
        centre = float(np.mean(log_compute[members]))
        sizes = len(np.unique(size[members]))
        if np.ptp(log_compute[members]) > _WIDEST_BUDGET:
            skipped.append((float(np.exp(centre)), "compute runs on without a gap: these runs share no budget"))
        elif sizes < _FEWEST_SIZES:
            skipped.append((float(np.exp(centre)), f"{sizes} {'size' if sizes == 1 else 'sizes'} only"))
        else:
            rows.append(members)
            numbers.append(np.full(len(members), len(means)))
            means.append(centre)
    if not rows:
        raise ValueError(
            f"No budget has runs of at least {_FEWEST_SIZES} sizes: isoFLOP minima need several sizes trained with "
            "the same compute (see `tolerance` for what counts as the same)."
        )
    return np.concatenate(rows), np.concatenate(numbers).astype(np.intp), np.array(means), skipped


def _at_mean_compute(loss: Array, log_compute: Array, group: NDArray[np.intp], log_flops: Array) -> Array:
    """Losses as they would be at exactly the mean compute of their budget."""
    away = log_compute - log_flops[group]
    if len(log_flops) < 2 or np.max(np.abs(away)) < 1e-9:
        return loss
    least = np.log([loss[group == j].min() for j in range(len(log_flops))])
    centred = log_flops - log_flops.mean()
    bend = np.polyfit(centred, least, min(2, len(least) - 1))
    return np.asarray(loss * np.exp(-np.polyval(np.polyder(bend), centred)[group] * away))


def _line(log_flops: Array, optimum: Array, sd: Array, scatter: float) -> tuple[float, float, float]:
    if len(optimum) < 2:
        return float("nan"), float("nan"), float("nan")
    weights = 1.0 / (sd**2 + max(scatter, 1e-6) ** 2)
    weights = weights / weights.sum()
    centre = weights @ log_flops
    z = log_flops - centre
    along = weights @ z**2
    slope = float(weights @ (z * optimum) / along)
    height = float(weights @ optimum)
    residual = optimum - height - slope * z
    dof = len(optimum) - 2
    sd_slope = float(np.sqrt(weights @ residual**2 / dof / along)) if dof else float("nan")
    return float(np.exp(height - slope * centre)), slope, sd_slope


def _verdict(
    budgets: Array, optimum: Array, ends: Array, inside: NDArray[np.bool_], skipped: list[tuple[float, str]]
) -> tuple[MinimaStatus, str]:
    sentences = []
    for flops, at, (first, last), there in zip(budgets, optimum, ends, inside, strict=True):
        if not there:
            where = "above the largest" if at >= last else "too flat to locate"
            where = "below the smallest size run" if at <= first else where
            sentences.append(f"At {flops:.3g} FLOPs the minimum is {where}: no minimum inside, left out.")
    if skipped:
        sentences.append(f"Left out for lack of sizes or of a common budget: {len(skipped)} groups of runs.")
    usable = int(inside.sum())
    if usable == 0:
        return MinimaStatus.NO_MINIMUM, " ".join(["No budget shows a minimum inside its sizes.", *sentences])
    if usable < _FEWEST_BUDGETS:
        few = f"Only {usable} of {len(budgets)} budgets show a minimum inside: the exponent is mostly the prior's."
        return MinimaStatus.FEW_BUDGETS, " ".join([few, *sentences])
    return MinimaStatus.OK, " ".join(sentences)

"""Laws: functional forms whose parameters can be estimated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from lightning_scaling.laws.curve_fits import Fits, fit_curves
from lightning_scaling.laws.estimator import estimate
from lightning_scaling.laws.form import UNITS, FunctionalForm, Parameter, Published, Source, Tag, Verified
from lightning_scaling.laws.options import FitOptions
from lightning_scaling.laws.results import Fit
from lightning_scaling.laws.solvers.objectives import Kind

__all__ = ["UNITS", "Law", "Parameter", "Published", "Source", "Tag", "Verified"]


class Law(FunctionalForm):
    """A functional form whose parameters can be estimated.

    A subclass sets the attributes of :class:`~lightning_scaling.laws.form.FunctionalForm` and writes
    :meth:`~lightning_scaling.laws.form.FunctionalForm.value` in plain numpy. Estimation, its derivatives, intervals,
    the catalogue's card and saving follow from these.
    """

    def known(self, name: str | None = None) -> Fit:
        """Published constants as a fit, to predict or allocate with.

        Args:
            name: Name of the constants; left out, the first.

        Returns:
            A fit without data: it predicts; intervals are nan unless standard errors were published.

        Raises:
            KeyError: The law has no published constants, or none of that name.
        """
        return Fit.from_published(self, name)

    def fit(
        self,
        data: Any,
        loss: str = "loss",
        objective: Kind = "huber",
        delta: float | Literal["auto"] = 1e-3,
        weights: Any = None,
        bootstrap: int = 0,
        seed: int = 0,
        *,
        columns: Mapping[str, str] | None = None,
        groups: Any = None,
        space: str | None = None,
        quantile: float = 0.5,
        fixed: Mapping[str, float] | None = None,
        bounds: Mapping[str, tuple[float, float]] | None = None,
        priors: Mapping[str, tuple[float, float]] | Literal["default"] | None = None,
        training: Mapping[str, Any] | None = None,
        progress: Callable[[int], Any] | None = None,
    ) -> Fit:
        """Estimate the parameters from points.

        Given the shape parameters the linear ones are solved exactly (variable projection: Golub and Pereyra, SIAM J.
        Numer. Anal. 10(2), 1973) over a deterministic cover of the shapes; the best few are then polished on the
        objective itself with exact derivatives. The same data give the same fit, always.

        Args:
            data: Mapping of arrays, DataFrame, or anything indexable by column name; columns of shape ``(n,)`` named
                like the inputs, in units of one. Rows that cannot be used are left out, counted and reported.
            loss: Column of what the law predicts.
            objective: ``"huber"``, ``"least_squares"`` or ``"quantile"``, always summed over the points.
            delta: Residual at which ``"huber"`` turns from square to linear. At .001 on log losses nearly all points
                are beyond it, so that the fit is close to least absolute deviations; at .1 it is least squares.
                ``"auto"``: one and a half times the scale of the residuals, found on the way.
            weights: Weights of the points, shape ``(n,)``, or the name of a column; left out, all equal.
                ``"frontier"``: those of :func:`lightning_scaling.laws.frontier_weights`, for laws of params and tokens.
            bootstrap: Number of refits to resampled points (whole groups, or blocks of an autocorrelated curve).
            seed: Seed of the resampling.
            columns: Column by input, where names differ, such as ``{"params": "N"}``.
            groups: Column, or values of shape ``(n,)``, that say which points share a run: errors then treat the run,
                not the point, as the unit.
            space: ``"log"`` for residuals of the logarithm, ``"linear"`` for plain ones; left out, as suits the law.
            quantile: Level of ``"quantile"``.
            fixed: Parameters to give instead of fitting, such as ``{"E": 1.7}``.
            bounds: Bounds in place of the law's own, such as ``{"alpha": (0.2, 0.5)}``.
            priors: Beliefs about positive parameters, as centre and standard deviation of the logarithm, such as
                ``{"alpha": (0.35, 0.2)}``, weighed against the residuals like so many more of them;
                ``"default"``: those of the law.
            training: What the report shall say of how runs were trained and measured (models, data, parameter_counting,
                learning_rate, schedule, checkpoints, ...); see :meth:`Fit.report`.
            progress: Called with the number of refits finished since its last call.

        Returns:
            The fit. A weak fit is returned with a `status` other than ``"ok"`` and a `message`, never silently.

        Raises:
            TypeError: `data` has no columns.
            ValueError: A column is missing, no or too few usable points are left, or an argument is out of its range.
        """
        how = (loss, objective, delta, weights, bootstrap, seed, columns, groups, space, quantile)
        options = FitOptions(*how, fixed, bounds, priors, training)
        return Fit.of(estimate(self, data, options, progress))

    def fit_many(
        self,
        data: Mapping[str, Any],
        loss: str = "loss",
        objective: Kind = "least_squares",
        delta: float = 1e-3,
        weights: Any = None,
        *,
        space: str | None = None,
        quantile: float = 0.5,
        fixed: Mapping[str, float] | None = None,
        bounds: Mapping[str, tuple[float, float]] | None = None,
    ) -> Fits:
        """Estimate the parameters of many curves at once; thousands take seconds.

        Args:
            data: Mapping of arrays: the losses of shape ``(curves, points)``, each input of that shape or ``(points,)``
                when all curves share it. Shorter curves are filled up with nan.
            loss: Key of what the law predicts.
            objective: As in :meth:`fit`.
            delta: As in :meth:`fit`.
            weights: Weights that broadcast to ``(curves, points)``.
            space: As in :meth:`fit`.
            quantile: As in :meth:`fit`.
            fixed: As in :meth:`fit`, for all curves alike.
            bounds: As in :meth:`fit`, for all curves alike.

        Returns:
            The fits: a status for every curve, and any of them in full by index.

        Raises:
            ValueError: A key is missing, shapes do not go together, or an argument is out of its range.
        """
        options = FitOptions(
            loss, objective, delta, weights, space=space, quantile=quantile, fixed=fixed, bounds=bounds
        )
        return fit_curves(self, data, options)

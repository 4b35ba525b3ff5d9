"""Fits: estimated laws with predictions, intervals, summaries and saving."""

from __future__ import annotations

from dataclasses import fields
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from lightning_scaling._utils.serialization import atomic_write
from lightning_scaling._utils.validation import probability
from lightning_scaling.laws.arrays import Array
from lightning_scaling.laws.estimate import Estimate, FitStatus
from lightning_scaling.laws.form import FunctionalForm
from lightning_scaling.laws.intervals import PredictionSpread
from lightning_scaling.laws.io import dumps, estimate_from_dict, parse, to_dict
from lightning_scaling.laws.profile import confidence
from lightning_scaling.laws.summary import checklist, fit_summary


class Fit(Estimate):
    """A law with estimated parameters; the attributes are those of an estimate.

    Attributes:
        law: The law.
        params: Estimates by name, in the law's order; given ones included.
        status: ``"ok"``; ``"at_bounds"``: a parameter sits at the edge of its range; ``"unidentified"``: the points do
            not determine all parameters; ``"not_converged"``; ``"published"``: constants from the literature.
        message: What the status means here, in sentences; empty when there is nothing to say.
        diagnostics: Numbers behind the status: points used and dropped, objective, condition number, and so on.
        points: The points used, or None for published constants.
        settings: How the fit was asked for.
        replicates: Bootstrap estimates of the free parameters, shape ``(count, free)``, or None.
        names: Names of the free parameters.
        u: Their coordinates: logarithms of those that span decades, shape ``(free,)``.
        cov: Covariance of the coordinates, shape ``(free, free)``; zero where a parameter is at a bound.
        residual_variance: Variance of a residual of unit weight, as it enters the covariance.
        dof_resid: Residual degrees of freedom: points (groups) less parameters.
        block: Points per block in the bootstrap of a single curve.
    """

    @classmethod
    def from_published(cls, law: FunctionalForm, name: str | None = None) -> Fit:
        """Published constants as a fit; see :meth:`Law.known`."""
        constants = law.constants(name)
        values = {p.name: float(constants.values[p.name]) for p in law.parameters}
        u = np.array([np.log(values[p.name]) if p.log else values[p.name] for p in law.parameters])
        errors = [constants.errors.get(p.name, 0.0) / (values[p.name] if p.log else 1.0) for p in law.parameters]
        cov = np.diag(np.square(errors))
        message = f"Constants {constants.name!r} of {constants.source} ({constants.verified}). {constants.note}".strip()
        return cls(law, values, FitStatus.PUBLISHED, message, names=tuple(values), u=u, cov=cov, dof_resid=10**6)

    @classmethod
    def of(cls, estimate: Estimate) -> Fit:
        """An estimate with all that can be derived from it."""
        return cls(**{field.name: getattr(estimate, field.name) for field in fields(Estimate)})

    @cached_property
    def prediction_spread(self) -> PredictionSpread:
        """Components of the prediction intervals."""
        return PredictionSpread(self)

    def interval(self, level: float = 0.95, *, of: str = "observation", **inputs: Any) -> tuple[Array, Array]:
        """Interval for what a new run would show at given inputs.

        It holds four things: the spread of the estimated parameters, the noise of one observation (and that
        between seeds), the disagreement of other plausible laws fitted to the same points, and a term that grows
        with the distance beyond the fitted range, calibrated on held-out real ladders
        (:class:`lightning_scaling.laws.intervals.PredictionSpread`).

        Args:
            level: Probability of the interval, between 0 and 1.
            of: ``"observation"``: all of the above; ``"law"``: the spread of the parameters alone, the confidence band
                of the curve if the law were exactly true.
            **inputs: The law's inputs by name.

        Returns:
            Lower and upper end, each of the inputs' broadcast shape; nan where no error can be estimated.

        Raises:
            ValueError: `level` is not between 0 and 1, or `of` is neither of the two.
            TypeError: An input is missing or unknown.
        """
        return self.prediction_spread.interval(probability("level", level), of, inputs)

    def conf_int(self, level: float = 0.95, method: str = "auto") -> dict[str, tuple[float, float]]:
        """Confidence interval of every parameter.

        Args:
            level: Probability, between 0 and 1.
            method: ``"profile"``: where the objective, minimised over all other parameters, has risen by as much as
                chance would make it rise; right for exponents and other parameters in which a law is far from linear.
                ``"bootstrap"``: quantiles of the refits. ``"wald"``: from standard errors. ``"auto"``: the bootstrap if
                there are refits, else the profile.

        Returns:
            Lower and upper end by name; both equal the value of a given parameter; nan where it is not determined.

        Raises:
            ValueError: `level` or `method` is not one of those, or there are no refits.
        """
        return confidence(self, probability("level", level), method)

    def summary(self, level: float = 0.95) -> str:
        """A table to paste into a paper: law, source, data, objective, estimates with intervals, quality.

        Args:
            level: Probability of the intervals, between 0 and 1.
        """
        return fit_summary(self, probability("level", level))

    def report(self) -> dict[str, Any]:
        """How the fit was made, by the questions of the checklist of Li et al. 2025 (arXiv 2502.18969)."""
        return checklist(self)

    def to_dict(self) -> dict[str, Any]:
        """The fit as builtins.

        Keys: ``format`` and ``version`` of the file; ``law`` (``name``, ``options``, ``formula``, ``source``);
        ``params``; ``estimates`` (one dict per parameter: ``name``, ``meaning``, ``value``, ``standard_error``,
        ``lower``, ``upper``, ``level``, ``given``); ``status``; ``message``; ``diagnostics``; ``settings``; ``state``
        (what predictions and intervals need: ``names``, ``u``, ``cov``, ``residual_variance``, ``dof_resid``,
        ``block``, ``replicates``); ``points`` (``inputs``, ``y``, ``weights``, ``groups``, ``given``, ``dropped``,
        ``warnings``; None for published constants); ``report`` (see :meth:`report`). Numbers that are not finite are
        the words ``"nan"``, ``"inf"`` and ``"-inf"``.
        """
        return to_dict(self)

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Fit:
        """The fit that :meth:`to_dict` described; nothing is fitted again.

        Args:
            state: What :meth:`to_dict` gave.

        Raises:
            KeyError: A key is missing, or its law is not in the catalogue.
        """
        return cls.of(estimate_from_dict(state))

    def save(self, path: str | Path) -> Path:
        """Write the fit with its points, settings and report as JSON.

        Args:
            path: File to write; replaced whole or not at all.

        Returns:
            The path.
        """
        return atomic_write(path, dumps(self))

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value:.4g}" for name, value in self.params.items())
        return f"Fit({self.law.name}: {values}; {self.status})"

    def _repr_html_(self) -> str:
        return f"<pre>{escape(self.summary())}</pre>"


def load(path: str | Path) -> Fit:
    """Read a fit that :meth:`Fit.save` wrote; nothing is fitted again.

    Args:
        path: The file.

    Returns:
        The fit, with the same predictions and intervals.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a saved fit, or of a later version.
        KeyError: Its law is not in the catalogue.
    """
    found = parse(Path(path).read_text(encoding="utf-8"), str(path))
    try:
        return Fit.from_dict(found)
    except (TypeError, LookupError, AttributeError) as error:
        if str(error.args[0]).startswith("There is no law"):
            raise
        raise ValueError(f"{path} is a damaged fit: {error}.") from None

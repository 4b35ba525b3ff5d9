"""Predictive distributions of the loss at future steps, and the priors behind them."""

from lightning_scaling.forecast.counterfactual import WhatIf, what_if, what_ifs
from lightning_scaling.forecast.forecaster import Forecaster
from lightning_scaling.forecast.priors.base import PUBLISHED, RunPrior, ShapePrior
from lightning_scaling.forecast.priors.family import Family, family_prior
from lightning_scaling.forecast.priors.final_loss import FinalLossPrior, FinalPrediction
from lightning_scaling.forecast.priors.past_run import PastRun
from lightning_scaling.forecast.result import Forecast, Prediction

__all__ = [
    "PUBLISHED",
    "Family",
    "FinalLossPrior",
    "FinalPrediction",
    "Forecast",
    "Forecaster",
    "PastRun",
    "Prediction",
    "RunPrior",
    "ShapePrior",
    "WhatIf",
    "family_prior",
    "what_if",
    "what_ifs",
]

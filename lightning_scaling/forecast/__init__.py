"""Where the loss will be, how sure that is, and what it rests on."""

from lightning_scaling.forecast.family import Family, family_prior
from lightning_scaling.forecast.finals import FinalPrediction, FinalsPrior
from lightning_scaling.forecast.forecaster import Forecaster
from lightning_scaling.forecast.prior import PUBLISHED, Lesson, ShapePrior
from lightning_scaling.forecast.relative import Relative
from lightning_scaling.forecast.result import Forecast, Prediction
from lightning_scaling.forecast.what_if import WhatIf, what_if, what_ifs

__all__ = [
    "PUBLISHED",
    "Family",
    "FinalPrediction",
    "FinalsPrior",
    "Forecast",
    "Forecaster",
    "Lesson",
    "Prediction",
    "Relative",
    "ShapePrior",
    "WhatIf",
    "family_prior",
    "what_if",
    "what_ifs",
]

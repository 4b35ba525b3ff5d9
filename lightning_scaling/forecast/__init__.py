"""Where the loss will be, how sure that is, and what it rests on."""

from lightning_scaling.forecast.family import family_prior
from lightning_scaling.forecast.forecaster import Forecaster
from lightning_scaling.forecast.prior import PUBLISHED, ShapePrior
from lightning_scaling.forecast.result import Forecast, Prediction

__all__ = ["PUBLISHED", "Forecast", "Forecaster", "Prediction", "ShapePrior", "family_prior"]

"""The online engine: one object per followed metric, from losses to forecast, verdict and advice."""

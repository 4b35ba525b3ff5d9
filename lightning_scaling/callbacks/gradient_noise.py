"""The gradient-noise scale from squared norms of gradients of small and of big batches."""

from __future__ import annotations

import math
from typing import NamedTuple

from scipy.special import stdtrit

from lightning_scaling._utils.state import AttributeState

_MIN_SAMPLES = 8.0  # effective; fewer give no interval of use
_MIN_WINDOW, _WINDOW_SHARE = 32.0, 0.25  # samples averaged over: at least, and of all so far
_UPPER_TAIL = 0.975  # of a two-sided 95 % interval
_SUMS = ("weight", "weight2", "noise", "signal", "noise2", "signal2", "noise_noise", "noise_signal", "signal_signal")


class NoiseEstimate(NamedTuple):
    """The gradient-noise scale and its 95 % interval, in the unit of the batch.

    Attributes:
        scale: The estimate; ``None`` where the gradient cannot be distinguished from noise.
        low: Lower end.
        high: Upper end; ``None`` where there is none, because the gradient may be zero.
    """

    scale: float | None
    low: float
    high: float | None

    @property
    def clear(self) -> bool:
        """Whether the interval spans no more than a factor four."""
        return self.high is not None and self.high <= 4 * self.low


class NoiseScale(AttributeState):
    r"""Moving averages of the two parts of the gradient-noise scale ``tr(Sigma) / |G|^2``.

    From the gradient of one micro-batch and the mean gradient of ``m`` of them, the step's own
    (McCandlish et al. 2018, arXiv 1812.06162, appendix A.1, with ``B_small`` = 1 and ``B_big`` = ``m`` micro-batches)::

        |G|^2     = (m |G_big|^2 - |G_small|^2) / (m - 1)
        tr(Sigma) = (|G_small|^2 - |G_big|^2) / (1 - 1/m)

    Both are unbiased; their ratio is not, so numerator and denominator are averaged apart: over the last quarter of the
    samples or so, and no fewer than some 32. The interval of the ratio of averages is Fieller's, which holds as well
    where the denominator may be zero.
    """

    STATE = ("count", "_sums")

    def __init__(self) -> None:
        self.count = 0
        self._sums = dict.fromkeys(_SUMS, 0.0)

    def add(self, small: float, big: float, parts: float, size: float) -> None:
        """Take the norms of one optimizer step.

        Args:
            small: Squared norm of the gradient of one micro-batch, or the mean of several such.
            big: Squared norm of the mean gradient of all micro-batches of the step.
            parts: How many these are; more than one.
            size: Samples, or tokens, of one micro-batch.
        """
        signal = (parts * big - small) / (parts - 1)
        noise = (small - big) / (1 - 1 / parts) * size
        if not (math.isfinite(signal) and math.isfinite(noise)):
            return
        self.count += 1
        keep = 1 - 1 / max(_MIN_WINDOW, _WINDOW_SHARE * self.count)
        new = (1.0, 1.0, noise, signal, noise, signal, noise * noise, noise * signal, signal * signal)
        fade = {name: keep if name in ("weight", "noise", "signal") else keep * keep for name in _SUMS}
        self._sums = {name: fade[name] * self._sums[name] + value for name, value in zip(_SUMS, new, strict=True)}

    def estimate(self) -> NoiseEstimate | None:
        """The noise scale; ``None`` while there are too few samples, or no noise shows in them."""
        s = self._sums
        if s["weight2"] <= 0:
            return None
        size = s["weight"] ** 2 / s["weight2"]
        if size < _MIN_SAMPLES:
            return None
        noise, signal = s["noise"] / s["weight"], s["signal"] / s["weight"]
        q2 = float(stdtrit(size - 1, _UPPER_TAIL)) ** 2 * size / (size - 1) / s["weight"] ** 2
        w2, n2, g2 = s["weight2"], s["noise2"], s["signal2"]
        v_nn = q2 * (s["noise_noise"] - 2 * noise * n2 + noise**2 * w2)
        v_ng = q2 * (s["noise_signal"] - noise * g2 - signal * n2 + noise * signal * w2)
        v_gg = q2 * (s["signal_signal"] - 2 * signal * g2 + signal**2 * w2)
        # Those r for which noise - r signal may be zero: a r^2 - 2 b r + c <= 0.
        a, b, c = signal**2 - v_gg, noise * signal - v_ng, noise**2 - v_nn
        if not (noise > 0 and c > 0):
            return None
        root = math.sqrt(max(b * b - a * c, 0.0))
        if not 0 < b + root < math.inf or (a > 0 and signal <= 0):
            return None
        low = c / (b + root)
        return NoiseEstimate(noise / signal, low, (b + root) / a) if a > 0 else NoiseEstimate(None, low, None)

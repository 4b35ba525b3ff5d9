"""Samples and tokens in a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from lightning_scaling.compute.batch_layout import (
    Amount,
    Layout,
    LayoutChangedError,
    layout_by_callable,
    layout_per_sample,
    sample_layout,
    token_layout,
)
from lightning_scaling.compute.batch_shapes import leaves


class BatchCounter:
    """Counts the samples and the tokens of each micro-batch, without ever waiting for the device.

    ===================  ===========================================================================================
    ``count``            tokens of a micro-batch
    ===================  ===========================================================================================
    ``"auto"``           ``B * T`` of a 2-D integer tensor ``(B, T)`` with ``T > 1`` that stands under a usual name
                         (``input_ids``, ``tokens``, ``x``, ...), or is the batch or the first tensor of a plain tuple
                         or list and then has ``T > 2`` (pairs of identifiers are no sequence) and no bytes (pixels);
                         otherwise none: samples are counted
    ``"samples"``        none
    ``"tokens"``         as ``"auto"``, or else ``B * T`` of the first tensor ``(B, T, ...)``, or ``T`` of ``(T,)``
    an integer ``n``     ``n`` per sample
    a callable           what it returns for the batch: an integer or a 0-d tensor, or a mapping with ``"tokens"`` and
                         ``"samples"``
    ===================  ===========================================================================================

    Where an ``attention_mask`` of the same shape stands next to the tokens, padding is left out of them; the count is
    then a 0-d tensor on the mask's device. Samples are the first dimension of the first tensor that has one, searched
    in Lightning's order (0-d tensors are passed over), else the length of the first list of strings, else unknown; a
    list of images of three dimensions each counts one sample an image.

    Args:
        count: What to count, see the table.

    Raises:
        TypeError: If ``count`` is none of these.
        ValueError: If ``count`` is an unknown word or an integer below 1.

    Example:
        >>> counter = BatchCounter()
        >>> import torch
        >>> counter.samples_and_tokens({"input_ids": torch.zeros(32, 256, dtype=torch.long)})
        (32, 8192)
        >>> counter.describe()
        "counting tokens: 2-D integer tensor of shape (32, 256) under 'input_ids', 8192 tokens per micro-batch"
    """

    def __init__(self, count: str | int | Callable[[Any], Any] = "auto") -> None:
        wanted = '"auto", "samples", "tokens", the number of tokens per sample, or a callable'
        number = isinstance(count, int) and not isinstance(count, bool)
        if isinstance(count, str) and count not in ("auto", "samples", "tokens"):
            raise ValueError(f"`count` must be {wanted}, but got {count!r}.")
        if not (number or isinstance(count, str) or callable(count)):
            raise TypeError(f"`count` must be {wanted}, but got {count!r}.")
        if isinstance(count, int) and count < 1:
            raise ValueError(f"`count` as a number is the tokens per sample and must be at least 1, but got {count}.")
        self._count = count
        self._kind: type | None = None
        self._layout: Layout | None = None

    def samples_and_tokens(self, batch: Any) -> tuple[Amount | None, Amount | None]:
        """Count one micro-batch.

        Args:
            batch: What the data loader gave, on any device.

        Returns:
            Samples and tokens, each an ``int``, a 0-d tensor left on its device, or ``None`` when unknown.

        Raises:
            TypeError: If the callable ``count`` returns something that is not a number.
            ValueError: If it returns a negative or broken number, or ``count="tokens"`` finds no tokens.
        """
        if self._layout is None or type(batch) is not self._kind:
            self._layout, self._kind = self._resolve(batch), type(batch)
        try:
            return self._layout.read(batch)
        except (LayoutChangedError, LookupError, AttributeError, TypeError):
            self._layout = self._resolve(batch)
            return self._layout.read(batch)

    def positions(self, batch: Any) -> int | None:
        """Tokens with padding, or samples when tokens are not counted: the ``D`` of ``6 N D``.

        May wait for the device when ``count`` is a callable that returns tensors; meant for once per batch shape.
        """
        samples, tokens = self.samples_and_tokens(batch)
        assert self._layout is not None
        if (padded := self._layout.positions(batch)) is not None:
            return padded
        amount = samples if tokens is None else tokens
        return None if amount is None else int(amount)

    @property
    def unit(self) -> Literal["tokens", "samples"]:
        """What is being counted, as known from the last batch; before the first one, what ``count`` promises."""
        if self._layout is not None:
            return self._layout.unit
        return "samples" if self._count in ("auto", "samples") else "tokens"

    @property
    def known(self) -> bool:
        """Whether the samples of the last batch could be told."""
        return self._layout is None or self._layout.known

    def describe(self) -> str:
        """One line saying what is being counted, as seen in the last new kind of batch."""
        return "counting: no batch seen yet" if self._layout is None else self._layout.sentence

    def _resolve(self, batch: Any) -> Layout:
        found = list(leaves(batch))
        if self._count in ("auto", "tokens"):
            if (layout := token_layout(found, strict=self._count == "auto")) is not None:
                return layout
            if self._count == "tokens":
                raise ValueError(
                    f'`count="tokens"` found no tensor of shape (B, T) in a batch of type {type(batch).__name__}: '
                    "give `count=` a callable that returns the tokens of a batch."
                )
        if callable(self._count):
            return layout_by_callable(self._count, sample_layout(found, batch))
        samples = sample_layout(found, batch)
        return layout_per_sample(self._count, samples) if isinstance(self._count, int) else samples

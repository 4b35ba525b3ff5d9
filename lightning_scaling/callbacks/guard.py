"""Isolation of the training from failures of the callbacks."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from lightning_scaling.callbacks._compat import CallbackBase
from lightning_scaling.callbacks.console import warn

P = ParamSpec("P")
T = TypeVar("T")

_logger = logging.getLogger("lightning_scaling")
_HOW_TO_REPORT = (
    "If this is a defect of lightning-scaling, please report it with the traceback, which "
    "`logging.getLogger('lightning_scaling').setLevel('DEBUG')` shows."
)


def cause_of(error: BaseException) -> str:
    """Type and message of an error, or of the error it was raised from, without a full stop."""
    error = error.__cause__ or error
    return f"{type(error).__name__}: {str(error).rstrip('.')}"


class SetupError(ValueError):
    """Callbacks that do not fit together: raised before training begins, as the user must mend it."""


def within(seconds: float, function: Callable[..., object], *args: Any) -> bool:
    """Call a function in a thread and wait for it at most some seconds; whether it has returned by then.

    What has not is left behind: the thread ends with the process.

    Raises:
        Exception: What the function raised.
    """
    errors: list[Exception] = []

    def work() -> None:
        try:
            function(*args)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=work, name="lightning-scaling-end", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no threads while the interpreter shuts down
        function(*args)
        return True
    thread.join(seconds)
    if errors:
        raise errors[0]
    return not thread.is_alive()


class Guard:
    """Switches off each part that fails, and reports its first failure.

    Args:
        report: Called with the sentence of a failure; a Python warning unless given.
    """

    def __init__(self, report: Callable[[str], None] = warn) -> None:
        self._report = report
        self._failed: set[str] = set()

    def has_failed(self, part: str) -> bool:
        """Whether a part is switched off."""
        return part in self._failed

    def failed(self, part: str, sentence: str, error: BaseException) -> None:
        """Switch a part off, with its cause in place of ``{cause}`` in the sentence."""
        if part not in self._failed:
            self._failed.add(part)
            _logger.debug("failure of: %s", part, exc_info=error)
            self._report(sentence.format(cause=cause_of(error)))

    def run(self, part: str, sentence: str, function: Callable[..., T], *args: Any, **kwargs: Any) -> T | None:
        """Call a function of a part; ``None`` if it fails or has failed before."""
        if part in self._failed:
            return None
        try:
            return function(*args, **kwargs)
        except Exception as error:
            self.failed(part, sentence, error)
            return None


class GuardedCallback(CallbackBase):
    """Base of the callbacks: a failure of theirs never reaches the training, and copies take no part in it."""

    _failure = "The callback failed ({cause}). It is off; training continues."
    _results: tuple[str, ...] = ()
    _guard: Guard
    _key: str

    def _failed(self, error: Exception) -> None:
        """Report a failure of a hook and switch the callback off."""
        self._guard.failed("callback", f"{self._failure} {_HOW_TO_REPORT}", error)
        try:
            self._switch_off(error)
        except Exception:
            _logger.debug("failure while switching off", exc_info=True)

    def _switch_off(self, error: Exception) -> None:
        """Let go of the training."""

    def _transient(self) -> dict[str, Any]:
        """What a copy has in place of the training under way."""
        return {}

    @property
    def state_key(self) -> str:
        """Distinguishes the callback's part of a checkpoint from that of one with other arguments."""
        return self._key  # Lightning asks at every call of every hook

    def __getstate__(self) -> dict[str, Any]:
        """Own attributes but the training under way; Lightning lends callbacks the module's ``log``."""
        own = {name: value for name, value in self.__dict__.items() if name.startswith("_") or name in self._results}
        return {**own, "_guard": Guard(), **self._transient()}

    def __deepcopy__(self, memo: dict[int, Any]) -> GuardedCallback:
        """A copy that takes no part in the training under way."""
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        made.__dict__.update(copy.deepcopy(self.__getstate__(), memo))
        return made


C = TypeVar("C", bound=GuardedCallback)


def guarded(hook: Callable[Concatenate[C, P], None]) -> Callable[Concatenate[C, P], None]:
    """A hook whose failure is reported once and switches its callback off; the training goes on."""

    @wraps(hook)
    def guarded_hook(self: C, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            hook(self, *args, **kwargs)
        except SetupError:
            raise
        except Exception as error:
            self._failed(error)

    return guarded_hook


def is_fitting(stage: Any) -> bool:
    """Whether the stage of a ``setup`` is that of ``Trainer.fit``."""
    return bool(getattr(stage, "value", stage) == "fit")


def is_new_run(trainer: Any) -> bool:
    """Whether training begins at its first batch, so that nothing of an earlier fit or checkpoint belongs to it."""
    return bool(trainer.global_step == 0 and trainer.fit_loop.total_batch_idx < 0)

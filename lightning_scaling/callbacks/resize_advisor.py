"""The callback that says whether the model is too large or too small for its data and compute."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Mapping
from typing import Any

from lightning_scaling.advice import Advice
from lightning_scaling.advice.config import DEFAULT
from lightning_scaling.advice.repeats import TOKENS
from lightning_scaling.advice.resize.decision import Resizing
from lightning_scaling.advice.resize.next_config import Rule, Shape
from lightning_scaling.advice.resize.state import ModelState
from lightning_scaling.callbacks._compat import CallbackBase
from lightning_scaling.callbacks.console import warn
from lightning_scaling.callbacks.scaling_law_monitor import ScalingLawMonitor
from lightning_scaling.callbacks.session import Session
from lightning_scaling.runs.history import RunHistory

__all__ = ["ResizeAdvisor"]

THREAD = "lightning-scaling-resize"
_LAST_WAIT = 3.0
_STEP = math.log(1.25)
_CONFIGS = ("config", "cfg", "hparams", "args")
_MODELS = ("model", "net", "network", "backbone", "transformer", "module")


class ResizeAdvisor(CallbackBase):
    r"""Compares a run's size and data with the best ones of its family, and proposes a next configuration.

    Needs a :class:`~lightning_scaling.callbacks.ScalingLawMonitor` among the Trainer's callbacks, which counts
    parameters, tokens and FLOPs and reads the history beside the training. Once that is known, the decision
    (``Resizing``) is worked out in a thread of its own, and told when it changes:
    through the monitor's ``on_advice``, in the journal, and as the MLflow tags ``scaling.resize.*``. The run itself is
    never altered. Works on rank zero, at the monitor's updates only.

    Args:
        history: Runs of the family; left out, what the monitor learns from.
        budget: FLOPs to be spent, inference included; left out, what the run spends.
        inference_tokens: Tokens that the model will process after training.
        unique_tokens: Distinct training tokens (or samples) there are; left out, those that the monitor knows of if it
            counts tokens, else enough.
        active_params: Parameters that one token passes through, for a mixture of experts; past runs tell theirs in
            ``meta["active_params"]``.
        shape: Width, depth and heads, as ``(width, layers, heads)`` or a mapping with the usual names; left out, looked
            for in the module's configuration. ``False`` proposes no shape.
        rule: How learning rate and batch are carried over: ``"step_law"``, ``"deepseek"`` or ``"mup"``.
        fine_tuning: Whether a trained model is tuned: the laws of pre-training do not hold then.
        least_cost: Share of the compute that the present size must waste before a word is said, in (0, 1).

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument has a value that it cannot have.

    Example::

        >>> from lightning.pytorch import Trainer  # doctest: +SKIP
        >>> advisor = ResizeAdvisor(inference_tokens=1e12)  # doctest: +SKIP
        >>> Trainer(max_steps=20_000, callbacks=[ScalingLawMonitor(), advisor]).fit(model)  # doctest: +SKIP
        >>> advisor.advice.reason, advisor.when_data_grows(2).reason  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        history: RunHistory | None = None,
        budget: float | None = None,
        inference_tokens: float = 0.0,
        unique_tokens: float | None = None,
        active_params: float | None = None,
        shape: Shape | Mapping[str, int] | tuple[int, ...] | bool | None = None,
        rule: Rule = "step_law",
        fine_tuning: bool = False,
        least_cost: float = DEFAULT.resize.least_cost,
    ) -> None:
        super().__init__()
        if history is not None and not isinstance(history, RunHistory):
            raise TypeError(
                f"`history` must be a RunHistory or None, but got {type(history).__name__}; wrap runs as "
                "`RunHistory([...])`."
            )
        self._history = history
        self._shaped, self._shape = shape is not False, _checked_shape(shape)
        self._active = active_params
        self._options: dict[str, Any] = {
            "budget": budget,
            "inference_tokens": inference_tokens,
            "unique_tokens": unique_tokens,
            "rule": rule,
            "fine_tuning": fine_tuning,
            "least_cost": least_cost,
        }
        Resizing(ModelState(1e6, 1e6, active_params=active_params), **self._options).check()
        self._monitor: ScalingLawMonitor | None = None
        self._module_shape: Shape | None = None
        self._attentive = False
        self._thread: threading.Thread | None = None
        self._answer: tuple[Resizing, Advice] | Exception | None = None
        self._resizing: Resizing | None = None
        self._advice: Advice | None = None
        self._asked: list[str] = []
        self._said: list[Any] = []

    # ------------------------------------------------------------------ results

    @property
    def advice(self) -> Advice | None:
        """The latest advice on size; ``None`` until it is known. ``"continue"`` says in its reason why."""
        return self._advice

    def when_data_grows(self, factor: float) -> Advice | None:
        """How the model should grow with so many times the data; ``None`` until :attr:`advice` is known.

        Args:
            factor: New data over present data, such as 2.

        Raises:
            ValueError: If `factor` is not positive.
        """
        return None if self._resizing is None else self._resizing.when_data_grows(factor)

    # -------------------------------------------------------------------- hooks

    def setup(self, trainer: Any, pl_module: Any, stage: Any) -> None:
        """Find the monitor.

        Raises:
            ValueError: If there is none among the Trainer's callbacks.
        """
        if getattr(stage, "value", stage) != "fit":
            return
        monitor = next((one for one in trainer.callbacks if isinstance(one, ScalingLawMonitor)), None)
        if monitor is None:
            raise ValueError(
                "ResizeAdvisor needs a ScalingLawMonitor among the Trainer's callbacks: "
                "Trainer(callbacks=[ScalingLawMonitor(), ResizeAdvisor()])."
            )
        self._leave()
        self._thread, self._answer, self._asked = None, None, []
        if trainer.is_global_zero and not trainer.fast_dev_run:
            self._module_shape, self._attentive = _look_at(pl_module)
            self._monitor = monitor
            monitor.watchers.append(self._look)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Tell what is still being worked out, if it comes soon."""
        session = None if self._monitor is None else self._monitor.session
        if session is not None:
            self._look(session)
            if self._thread is not None:
                self._thread.join(_LAST_WAIT)
                self._look(session)

    def teardown(self, trainer: Any, pl_module: Any, stage: Any) -> None:
        """Let go of the monitor."""
        self._leave()

    # -------------------------------------------------------------------- state

    @property
    def state_key(self) -> str:
        """Name of its part of a checkpoint."""
        return "lightning_scaling.ResizeAdvisor"

    def state_dict(self) -> dict[str, Any]:
        """What has been said, so that it is not said again after a resume; builtins."""
        return {"said": list(self._said)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Remember what was said."""
        self._said = list(state_dict.get("said", []))

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the training under way."""
        own = {name: value for name, value in self.__dict__.items() if name.startswith("_")}
        return {**own, "_monitor": None, "_thread": None, "_answer": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> ResizeAdvisor:
        """A copy that takes no part in the training under way."""
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        made.__dict__.update(copy.deepcopy(self.__getstate__(), memo))
        return made

    # ------------------------------------------------------------------ private

    def _look(self, session: Session) -> None:
        """At an update of the monitor: tell what has been worked out, or have it worked out."""
        try:
            if self._thread is not None and not self._thread.is_alive():
                self._thread = None
                self._tell(session)
            elif self._thread is None and not session.past.reading:
                self._ask(session)
        except Exception as error:
            self._give_up(error)

    def _ask(self, session: Session) -> None:
        assert session.engine is not None
        forecast = session.engine.forecast
        stage = "landing" if forecast.trust == "ok" else "size"
        if stage in self._asked or (self._asked and session.past.runs):
            return
        present = self._present(session)
        if present is None:
            return
        self._asked.append(stage)
        runs = self._history if self._history is not None else session.past.runs
        unique = self._options["unique_tokens"] or _unique(session)
        resizing = Resizing(present, runs, **{**self._options, "unique_tokens": unique})

        def work() -> None:
            try:
                self._answer = (resizing, resizing.advise())
            except Exception as error:
                self._answer = error

        self._thread = threading.Thread(target=work, name=THREAD, daemon=True)
        self._thread.start()

    def _present(self, session: Session) -> ModelState | None:
        engine, known = session.engine, session.known()
        assert engine is not None
        total, each, flops = engine.plan.total_steps, known["tokens_per_step"], known["flops_per_step"]
        if not (total and each and engine.config.params):
            return None
        measure, forecast = engine.metric, engine.forecast
        shape = self._shape or self._module_shape
        counts = session.counts
        final = float(forecast.final) if forecast.trust == "ok" else None
        return ModelState(
            params=float(engine.config.params),
            tokens=float(total * each),
            flops=None if flops is None else float(flops * total),
            plan=engine.plan,
            loss=final if final is not None and final > 0 else None,
            tokens_per_step=float(each),
            active_params=self._active,
            embedding=float(counts.embedding) if counts is not None else 0.0,
            shape=shape if self._shaped else None,
            shaped=self._shaped and (shape is not None or self._attentive),
            unit="samples" if known["meta"]["unit"] == "samples" else "tokens",
            metric=measure.name,
            mode="max" if measure.settings["mode"] == "max" else "min",
            step=max(engine.curve.last_step, 0),
        )

    def _tell(self, session: Session) -> None:
        answer, self._answer = self._answer, None
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            return
        self._resizing, self._advice = answer
        factor = self._advice.evidence.get("factor") or 1.0
        said = [self._advice.action, self._advice.code.value, round(math.log(factor) / _STEP)]
        if said != self._said:
            aloud = self._advice.action != "continue" or bool(self._said and self._said[0] != "continue")
            self._said = said
            session.record.resize(self._advice, aloud=aloud)

    def _leave(self) -> None:
        if self._monitor is not None and self._look in self._monitor.watchers:
            self._monitor.watchers.remove(self._look)
        self._monitor = None

    def _give_up(self, error: Exception) -> None:
        self._leave()
        self._thread = None
        what = f"{type(error).__name__}: {str(error).rstrip('.')}"
        warn(f"The advice on size failed ({what}) and is silent from now on; training continues.")


def _unique(session: Session) -> float | None:
    """The distinct tokens the monitor knows of; of samples, as they may be altered each time, it takes none for one."""
    repeats = None if session.engine is None else session.engine.repeats
    return None if repeats is None or repeats.unit != TOKENS else repeats.unique


def _checked_shape(shape: Any) -> Shape | None:
    if shape is None or isinstance(shape, bool | Shape):
        return shape if isinstance(shape, Shape) else None
    found = Shape.of(shape) if isinstance(shape, Mapping) else None
    if isinstance(shape, tuple | list) and len(shape) in (2, 3):
        found = Shape(*shape)
    if found is None:
        raise ValueError(
            f"`shape` must be (width, layers, heads), or a mapping such as {{'n_embd': 768, 'n_layer': 12, "
            f"'n_head': 12}}, but got {shape!r}."
        )
    return found


def _look_at(module: Any) -> tuple[Shape | None, bool]:
    """The shape told by a configuration of the module or of a model in it, and whether there is attention at all."""
    try:
        attentive = any("attn" in name.lower() or "attention" in name.lower() for name, _ in module.named_modules())
        for owner in (module, *(getattr(module, name, None) for name in _MODELS)):
            for place in _CONFIGS:
                config = getattr(owner, place, None)
                found = None if config is None else Shape.of(config)
                if found is not None:
                    return found, True
    except Exception:  # a module may raise at any look; the shape is then taken from the size alone
        return None, False
    return None, attentive

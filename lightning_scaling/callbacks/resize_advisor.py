"""The callback that says whether the model is too large or too small for its data and compute."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from typing import Any

from lightning_scaling.advice import Advice
from lightning_scaling.advice.config import DEFAULT
from lightning_scaling.advice.repeats import TOKENS
from lightning_scaling.advice.resize.decision import Resizing
from lightning_scaling.advice.resize.next_config import Rule
from lightning_scaling.advice.resize.state import ModelState, Shape
from lightning_scaling.callbacks.guard import Guard, GuardedCallback, guarded, is_fitting, is_new_run
from lightning_scaling.callbacks.scaling_law_monitor import ScalingLawMonitor, find_monitors
from lightning_scaling.callbacks.session import Session
from lightning_scaling.runs.history import RunHistory

__all__ = ["ResizeAdvisor"]

THREAD = "lightning-scaling-resize"
_FINAL_WAIT = 3.0  # seconds that the end of training waits for advice under way
_NEWS_FACTOR = math.log(1.25)  # log ratio of sizes below which advice counts as the same
_CONFIGS = ("config", "cfg", "hparams", "args")
_MODELS = ("model", "net", "network", "backbone", "transformer", "module")


class ResizeAdvisor(GuardedCallback):
    r"""Compares a run's size and data with the best ones of its family, and proposes a next configuration.

    Needs a :class:`~lightning_scaling.callbacks.ScalingLawMonitor` among the Trainer's callbacks, which counts
    parameters, tokens and FLOPs and reads the history in the background. Once that is known, the decision
    (``Resizing``) is worked out in a thread of its own, and passed on when it changes:
    through the monitor's ``on_advice``, in the journal, and as the MLflow tags ``scaling.resize.*``. The run itself is
    never altered. Works on rank zero, at the monitor's updates only.

    Args:
        history: Runs of the family; left out, what the monitor learns from.
        budget: FLOPs to be spent, inference included; left out, what the run spends.
        inference_tokens: Tokens that the model will process after training.
        unique_tokens: Distinct training tokens (or samples) there are; left out, those that the monitor knows of if it
            counts tokens, else enough.
        active_params: Parameters that one token passes through, for a mixture of experts; past runs have theirs in
            ``meta["active_params"]``.
        shape: Width, depth and heads, as ``(width, layers, heads)`` or a mapping with the usual names; left out, looked
            for in the module's configuration. ``False`` proposes no shape.
        rule: How learning rate and batch are carried over: ``"step_law"``, ``"deepseek"`` or ``"mup"``.
        fine_tuning: Whether a trained model is tuned: the laws of pre-training do not hold then.
        least_cost: Share of the compute that the present size must waste before advice is given, in (0, 1).

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument has a value that it cannot have.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning.pytorch.demos.boring_classes import BoringModel
        >>> advisor = ResizeAdvisor(inference_tokens=1e12)
        >>> callbacks = [ScalingLawMonitor(journal=False), advisor]
        >>> quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        >>> trainer = Trainer(max_steps=32, callbacks=callbacks, enable_model_summary=False, **quiet)
        >>> trainer.fit(BoringModel())
        >>> advisor.advice.action
        'continue'
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
        Resizing(ModelState(1e6, 1e6, active_params=active_params), **self._options)
        self._monitor: ScalingLawMonitor | None = None
        self._module_shape: Shape | None = None
        self._attentive = False
        self._thread: threading.Thread | None = None
        self._answer: tuple[Resizing, Advice] | Exception | None = None
        self._resizing: Resizing | None = None
        self._advice: Advice | None = None
        self._stages: list[str] = []
        self._reported: list[Any] = []
        self._guard = Guard()

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

    @guarded
    def setup(self, trainer: Any, pl_module: Any, stage: Any) -> None:
        """Find the monitor.

        Raises:
            SetupError: If there is none among the Trainer's callbacks.
        """
        if is_fitting(stage):
            self._follow(find_monitors(trainer, "ResizeAdvisor")[0], trainer, pl_module)

    @guarded
    def _follow(self, monitor: ScalingLawMonitor, trainer: Any, module: Any) -> None:
        self._leave()
        self._guard = Guard()
        self._thread, self._answer, self._stages = None, None, []
        if trainer.is_global_zero and not trainer.fast_dev_run:
            silent = Guard(lambda sentence: None)  # a module may raise at any look
            self._module_shape, self._attentive = silent.run("shape", "", _shape_of, module) or (None, False)
            self._monitor = monitor
            monitor.watchers.append(self._look)

    @guarded
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Forget the advice of an earlier fit that this one does not continue."""
        if is_new_run(trainer) and self._advice is not None:
            self._resizing, self._advice, self._reported = None, None, []

    @guarded
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Pass on what is still being worked out, if it comes soon."""
        session = None if self._monitor is None else self._monitor.session
        if session is not None:
            self._look(session)
            if self._thread is not None:
                self._thread.join(_FINAL_WAIT)
                self._look(session)

    @guarded
    def teardown(self, trainer: Any, pl_module: Any, stage: Any) -> None:
        """Let go of the monitor."""
        self._leave()

    # -------------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """What has been reported, so that it is not reported again after a resume; builtins."""
        return {"reported": list(self._reported)}

    @guarded
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what has been reported."""
        self._reported = list(state_dict.get("reported", []))

    # ------------------------------------------------------------------ private

    _key = "lightning_scaling.ResizeAdvisor"
    _failure = "The advice on size failed ({cause}) and is silent from now on; training continues."

    def _transient(self) -> dict[str, Any]:
        return {"_monitor": None, "_thread": None, "_answer": None}

    @guarded
    def _look(self, session: Session) -> None:
        """At an update of the monitor: report what has been worked out, or have it worked out."""
        if self._thread is not None and not self._thread.is_alive():
            self._thread = None
            self._report(session)
        elif self._thread is None and not session.past_runs.reading:
            self._start(session)

    def _start(self, session: Session) -> None:
        stage = "final loss" if session.engine.forecast.trust == "ok" else "size"
        if stage in self._stages or (self._stages and session.past_runs.runs):
            return
        present, repeats = self._present(session), session.engine.repeats
        if present is None:
            return
        self._stages.append(stage)
        runs = self._history if self._history is not None else session.past_runs.runs
        # Samples may be altered each time: none counts as a repeat.
        known = repeats.unique if repeats is not None and repeats.unit == TOKENS else None
        unique = self._options["unique_tokens"] or known
        resizing = Resizing(present, runs, **{**self._options, "unique_tokens": unique})

        def work() -> None:
            try:
                self._answer = (resizing, resizing.advise())
            except Exception as error:
                self._answer = error

        self._thread = threading.Thread(target=work, name=THREAD, daemon=True)
        self._thread.start()

    def _present(self, session: Session) -> ModelState | None:
        engine, known = session.engine, session.run_fields()
        total, each, flops = engine.plan.total_steps, known["tokens_per_step"], known["flops_per_step"]
        if not (total and each and engine.config.params):
            return None
        forecast, counts = engine.forecast, session.counts
        shape = self._shape or self._module_shape
        final = float(forecast.final) if forecast.trust == "ok" else 0.0
        return ModelState(
            params=float(engine.config.params),
            tokens=float(total * each),
            flops=None if flops is None else float(flops * total),
            plan=engine.plan,
            loss=final if final > 0 else None,
            tokens_per_step=float(each),
            active_params=self._active,
            embedding=float(counts.embedding) if counts is not None else 0.0,
            shape=shape if self._shaped else None,
            shaped=self._shaped and (shape is not None or self._attentive),
            unit="samples" if known["meta"]["unit"] == "samples" else "tokens",
            metric=engine.metric.name,
            mode="max" if engine.metric.settings["mode"] == "max" else "min",
            step=max(engine.curve.last_step, 0),
        )

    def _report(self, session: Session) -> None:
        answer, self._answer = self._answer, None
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            return
        self._resizing, advice = answer
        self._advice = advice
        factor = advice.evidence.get("factor") or 1.0
        report = [advice.action, advice.evidence.get("why"), round(math.log(factor) / _NEWS_FACTOR)]
        if report != self._reported:
            notify = not {advice.action, *self._reported[:1]} <= {"continue"}
            self._reported = report
            session.logger.resize(advice, notify=notify)

    def _leave(self) -> None:
        if self._monitor is not None and self._look in self._monitor.watchers:
            self._monitor.watchers.remove(self._look)
        self._monitor = None

    def _switch_off(self, error: Exception) -> None:
        self._leave()
        self._thread = None


def _checked_shape(shape: Any) -> Shape | None:
    if shape is None or isinstance(shape, bool):
        return None
    found = shape if isinstance(shape, Shape) else Shape.of(shape) if isinstance(shape, Mapping) else None
    if isinstance(shape, tuple | list) and len(shape) in (2, 3):
        found = Shape(*shape)
    if found is None:
        raise ValueError(
            f"`shape` must be (width, layers, heads), or a mapping such as {{'n_embd': 768, 'n_layer': 12, "
            f"'n_head': 12}}, but got {shape!r}."
        )
    return found


def _shape_of(module: Any) -> tuple[Shape | None, bool]:
    """The shape in a configuration of the module or of a model in it, and whether there is attention at all."""
    attentive = any("attn" in name.lower() or "attention" in name.lower() for name, _ in module.named_modules())
    for owner in (module, *(getattr(module, name, None) for name in _MODELS)):
        for config in (getattr(owner, place, None) for place in _CONFIGS):
            if config is not None and (found := Shape.of(config)) is not None:
                return found, True
    return None, attentive

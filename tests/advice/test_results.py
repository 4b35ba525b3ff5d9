"""Results of the advice: one readable line, and a round trip through builtins."""

import json

from lightning_scaling.advice import Advice, Decision, FindingCode, Ranking, RunRank, StopKind
from lightning_scaling.advice.resize.next_config import Configuration
from lightning_scaling.advice.resize.state import Shape

ADVICE = Advice("stop", "The run is lost.", {"cause": "data"}, 0.5, None, 0.95, 400, FindingCode.DIVERGED)
DECISION = Decision(StopKind.DIVERGED, "The run is lost.", 400, 0.6, None, 0.95, {"lost": 0.8})
RANKING = Ranking(
    0.4, 0, (RunRank(0, "a", 0.9, 0.0, 0.0, True, True, 0.8), RunRank(1, None, 0.1, 0.1, 0.1, True, True))
)
CONFIGURATION = Configuration(1e8, 2e9, Shape(64, 2, 4), 1e-3, 1e5, 20_000, "step_law")


def test_a_result_is_one_readable_line():
    assert repr(ADVICE) == "Advice(stop, step=400, code=diverged, saving=50%, 'The run is lost.')"
    assert repr(DECISION) == "Decision(stop at step 400, kind=diverged, saving=60%, probability=95.0%)"
    assert repr(RANKING) == "Ranking(2 runs at 40% of the plan, likely best 'a': 90%)"


def test_a_result_survives_as_builtins():
    for one in (ADVICE, DECISION, RANKING, CONFIGURATION):
        assert type(one).from_dict(json.loads(json.dumps(one.to_dict()))) == one

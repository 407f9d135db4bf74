"""A tiny profile whose stages the recorder made: what publishing and comparing read."""

import pandas as pd

from memgen.config import STAGES
from memgen.intervals import Estimate
from tests import test_run
from tests.test_run import DESCRIBED, started

PROFILE = """
runs: {inference: {models: [gpt2-2x32]}}
seeds: [0]
comparisons: {seeds: [1], runs: {inference: {models: [gpt2-2x32]}, joint: {analysed: false, models: [gpt2-1x16]}}}
"""
CELL = "inference/gpt2-2x32/seed0"
FRAME = pd.DataFrame({"layer": [0, 1], "value": [0.25, 0.75]})


def make(stage, value=2 / 3, **parameters):
    """Run a stage that records numbers and a table; training also has a checkpoint."""
    run = started(stage, **parameters)
    if STAGES[stage].of_profile:
        run.metrics()
        run.record("third", Estimate(1 / 3, 0.1 + 0.2, 1.0, 2), task="inference", **DESCRIBED)
    else:
        for earlier in STAGES[stage].reads:
            run.input(earlier, "metrics.json")
        run.record("accuracy", value, n=10, layer=1, method="study", **DESCRIBED)
        run.record("accuracy", Estimate(0.5, 0.4, 0.6, 10), layer=1, **DESCRIBED)
        run.record("empty", float("nan"), n=0, form="matched", **DESCRIBED)
    if stage == "training":
        run.path("checkpoints", "step10", "weights").write_text("large")
    run.table(FRAME / 7, "sevenths", caption="Sevenths.")
    run.finish()
    return run.folder


def make_all(project):
    """Write the profile and run all stages of all its runs."""
    (project / "notebooks").mkdir()
    (project / "config").mkdir()
    test_run.make_all(project, PROFILE, make)

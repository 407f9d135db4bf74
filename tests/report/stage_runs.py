"""What the tests of the report share: a notebook's namespace, and stages that only write text."""

import altair
import pandas as pd

from memgen import config, report
from memgen.report import stages

PROFILE = """
runs: {inference: [gpt2-2x32, gpt2-3x64], addition: [gpt2-2x32]}
seeds: [0, 1]
"""
FRAME = pd.DataFrame({"layer": [0, 1], "value": [0.25, 0.75]})
CHART = altair.Chart(FRAME).mark_bar().encode(x="layer:O", y="value:Q", tooltip="value:Q")
DESCRIBED = {"definition": "Share of inputs that are right.", "unit": "accuracy 0-1"}


def namespace(**given):
    """What `globals()` is in a notebook: parameters, their annotations, and IPython's history."""
    defaults = {"profile": "tiny", "task": "inference", "model": "", "seed": 0, "results": "results"}
    cell = "\n".join(f"{name}: {type(value).__name__} = {value!r}" for name, value in defaults.items())
    injected = "# Parameters\n" + "\n".join(f"{name} = {value!r}" for name, value in given.items())
    return {**defaults, **given, "In": ["", cell, *([injected] if given else []), "report.begin(...)"]}


def make(stage, files=("one.txt",), **given):
    """Run a stage that writes files, and return its folder."""
    run = report.begin(stage, namespace(**given))
    for need in stages.NEEDS[stage]:
        run.input(need, "one.txt")
    for file in files:
        run.path(file).write_text(f"{stage} {file}")
    run.record("accuracy", 0.5, n=10, **DESCRIBED)
    run.finish()
    return run.folder


def begin_whole(stage="synthesis"):
    """Begin a stage of the whole profile as a script would, without IPython."""
    given = {"profile": "tiny", "results": "results"}
    return report.begin(stage, {**given, "__annotations__": dict.fromkeys(given, str)})


def make_whole(stage):
    """Run a stage of the whole profile that reads every run's numbers, and return its folder."""
    run = begin_whole(stage)
    run.record("mean", run.metrics().value.mean() / 3, n=len(run.cells()), **DESCRIBED)
    run.table(FRAME / 3, "thirds", caption="Thirds.")
    run.finish()
    return run.folder


def make_all(project, profile):
    """Write a profile and run all stages of all its runs."""
    (project / "config/tiny.yaml").write_text(profile)
    for task, model, seed in config.load_profile("tiny").cells():
        for stage in stages.needed(task):
            make(stage, task=task, model=model, seed=seed)
    for stage in stages.PROFILE_STAGES:
        make_whole(stage)


def snapshot(folder):
    """Every file below a folder with its content."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

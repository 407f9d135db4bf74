"""The graph of a profile: every stage of every run, results/{profile}/{task}/{model}/seed{seed}/{stage}, then the book.

`make book PROFILE=smoke` runs it; alone: `snakemake --cores all --config profile=smoke`.

A stage runs again when its notebook, a module of memgen that the notebook imports (directly or not), the settings that
it reads, or an earlier stage changed. What Snakemake takes for its output is a stamp, `log/{stage}.json`, a copy of the
stage's manifest: Snakemake deletes outputs before it runs a job, so a failed run loses its stamp, never a good result.
"""

import filecmp
import glob
import json
from dataclasses import asdict
from functools import reduce
from importlib.metadata import version
from modulefinder import ModuleFinder
from operator import getitem
from pathlib import Path

from snakemake.exceptions import WorkflowError


workdir: workflow.basedir


from memgen import config as settings

# Which earlier stages of the same run a stage reads; the synthesis reads all of all runs.
NEEDS = {
    "data": [],
    "training": ["data"],
    "localization": ["data", "training"],
    "prediction": ["data", "training", "localization"],
    "steering": ["data", "training", "localization"],
}
# The settings that a stage reads; those of earlier stages reach it through their results.
SETTINGS = {
    "data": ["task_options"],
    "training": ["model", "training", "analysis.batch_size", "analysis.n_resamples"],
    "localization": ["analysis.batch_size", "analysis.n_permutations", "analysis.n_resamples"],
    "prediction": ["analysis.n_resamples"],
    "steering": ["analysis"],
}

try:
    PROFILE = settings.load_profile(str(config.get("profile", "default")))
    CELLS = {cell: asdict(settings.resolve(PROFILE.name, *cell)) for cell in PROFILE.cells()}
except settings.InputError as error:
    raise WorkflowError(str(error))


def run_path(cell):
    """Task, model and seed as they stand in a path."""
    return "{}/{}/seed{}".format(*cell)


VEGA = "book/_static/vega.js"
RESULTS = f"results/{PROFILE.name}"
RUN = RESULTS + "/{task}/{model}/seed{seed}"
STAMPS = expand(RESULTS + "/{run}/log/{stage}.json", run=map(run_path, CELLS), stage=NEEDS)
SHOWN = [run_path((task, models[0], PROFILE.seeds[0])) for task, models in PROFILE.runs.items()]  # in the book's chapters
CHAPTERS = [f"book/chapters/{stage}-{task}.ipynb" for stage in NEEDS for task in PROFILE.runs]
CHAPTERS.append("book/chapters/synthesis.ipynb")

# Runs stand side by side, each with one thread unless told otherwise: the number of threads changes the last digits of
# sums, and training amplifies that. A graphics card takes as many runs at a time as `--resources accelerator=N` allows.
# The long stages of all runs go first, so that the end is even.
THREADS = int(config.get("threads", 1))
PRIORITY = {"data": 2, "training": 1}
ON_ACCELERATOR = {"accelerator": 1} if Path("/dev/nvidia0").exists() else {}

# A stamp counts only while what it speaks of is there, unchanged.
for stamp in map(Path, glob.glob(f"{RESULTS}/**/log/*.json", recursive=True)):
    manifest = stamp.parent.parent / stamp.stem / "manifest.json"
    if not (manifest.exists() and filecmp.cmp(stamp, manifest, shallow=False)):
        stamp.unlink()
if not Path("_build/html/index.html").exists():
    Path("_build/book.stamp").unlink(missing_ok=True)


def sources(*scripts):
    """The scripts, and all modules of memgen that they import, directly or through other modules."""
    finder = ModuleFinder(path=["."])
    for script in scripts:
        finder.run_script(script)
    modules = [module.__file__ for module in finder.modules.values() if module.__file__]
    return sorted({str(Path(name)) for name in [*scripts, *modules]})


SOURCES = {stage: sources(f"notebooks/{stage}.py") for stage in [*NEEDS, "synthesis"]}


def stage_sources(stage):
    """An input function: the stage's sources, and those of the run's task, which is imported by its name."""
    uses_tasks = "memgen/tasks/__init__.py" in SOURCES[stage]
    return lambda wildcards: SOURCES[stage] + (sources(f"memgen/tasks/{wildcards.task}.py") if uses_tasks else [])


def stage_parameters(wildcards):
    """The notebook's parameters."""
    names = {"profile": PROFILE.name, "task": wildcards.task, "model": wildcards.model, "seed": int(wildcards.seed)}
    return json.dumps(names)


def stage_settings(stage):
    """A parameter function: the settings of the run that the stage reads, as text."""

    def collect(wildcards):
        cell = CELLS[wildcards.task, wildcards.model, int(wildcards.seed)]
        return json.dumps({name: reduce(getitem, name.split("."), cell) for name in SETTINGS[stage]})

    return collect


# The executed copy and all that it printed stay in log/; errors that the kernel itself reports go to a third file.
EXECUTE = """
    export MALLOC_TRIM_THRESHOLD_=1073741824 MALLOC_MMAP_THRESHOLD_=1073741824
    export OMP_NUM_THREADS={threads} MKL_NUM_THREADS={threads} OPENBLAS_NUM_THREADS={threads} TOKENIZERS_PARALLELISM=false
    echo "▶ {params.label} {rule}: started"
    python -m memgen.report.execute notebooks/{rule}.py {log.notebook} {params.folder} \\
        --parameters {params.parameters:q} --label "{params.label} {rule}" 2> {log.errors} ||
        {{ tail -n 3 {log.errors} >&2; exit 1; }}
    cp {params.folder}/manifest.json {output}
"""


wildcard_constraints:
    seed="[0-9]+",


rule all:
    """Every stage of every run, and the book. All are named here: Snakemake does not miss what only led to a result."""
    input:
        STAMPS,
        RESULTS + "/log/synthesis.json",
        "_build/book.stamp",


rule book:
    """The HTML book, built strictly; the last good one stays until a new one is complete."""
    input:
        chapters=CHAPTERS,
        pages=glob.glob("book/*.md") + glob.glob("book/*.bib"),
        settings=["_config.yml", "_toc.yml"],
        assets=["book/_static/memgen.css", VEGA, *glob.glob("book/_extensions/*.py")],
    output:
        "_build/book.stamp",
    log:
        "_build/book.log",
    shell:
        """
        echo "▶ book: rendering"
        rm -rf _build/next _build/last
        if ! jupyter-book build . --path-output _build/next --all -n -W --keep-going > {log} 2>&1; then
            echo "✗ The book has warnings or errors (all output: {log}):" >&2
            grep -E 'WARNING|ERROR|Error' {log} | head -n 20 >&2
            exit 1
        fi
        if [ -e _build/html ]; then mv _build/html _build/last; fi
        mv _build/next/_build/html _build/html
        rm -rf _build/next _build/last
        date > {output}
        echo "▶ book: done in $SECONDS s: _build/html/index.html"
        """


rule chapters:
    """Copies of the finished notebooks of one run of each task, and the script that draws their charts."""
    input:
        expand(RESULTS + "/{run}/log/{stage}.json", run=SHOWN, stage=NEEDS),
        RESULTS + "/log/synthesis.json",
        [*sources("memgen/report/book.py"), "memgen/report/figures.js"],
    output:
        CHAPTERS,
        VEGA,
    params:
        profile=PROFILE.name,
        version=version("vl-convert-python"),
    shell:
        "python -m memgen.report stage {params.profile}"


rule synthesis:
    """All runs of the profile together."""
    input:
        SOURCES["synthesis"],
        STAMPS,
    output:
        RESULTS + "/log/synthesis.json",
    log:
        notebook=RESULTS + "/log/synthesis.ipynb",
        errors=RESULTS + "/log/synthesis.err",
    params:
        label=PROFILE.name,
        folder=RESULTS + "/synthesis",
        parameters=json.dumps({"profile": PROFILE.name}),
    threads: 1
    shell:
        EXECUTE


for stage, earlier in NEEDS.items():

    rule:
        name:
            stage
        input:
            stage_sources(stage),
            expand(RUN + "/log/{stage}.json", stage=earlier, allow_missing=True),
        output:
            f"{RUN}/log/{stage}.json",
        log:
            notebook=f"{RUN}/log/{stage}.ipynb",
            errors=f"{RUN}/log/{stage}.err",
        params:
            label="{task}/{model}/seed{seed}",
            folder=f"{RUN}/{stage}",
            parameters=stage_parameters,
            settings=stage_settings(stage),
        threads: THREADS
        resources:
            **ON_ACCELERATOR,
        priority: PRIORITY.get(stage, 0)
        shell:
            EXECUTE

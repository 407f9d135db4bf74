"""The graph of a profile: every stage of every run, results/{profile}/{task}/{model}/seed{seed}/{stage}, then the book.

`make book PROFILE=smoke` runs it; alone: `snakemake --cores all --config profile=smoke`.

A stage runs again when its notebook, a module of memgen that the notebook imports (directly or not), the settings that
it reads, or an earlier stage changed. What Snakemake takes for its output is a stamp, `log/{stage}.json`, a copy of the
stage's manifest: Snakemake deletes outputs before it runs a job, so a failed run loses its stamp, never a good result.
"""

import filecmp
import glob
import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from itertools import chain
from operator import attrgetter
from pathlib import Path

from filelock import FileLock, Timeout
from snakemake.exceptions import WorkflowError


workdir: workflow.basedir


from memgen.config import STAGES, InputError, load_profile, resolve, sources, stages_of

try:
    PROFILE = load_profile(str(config.get("profile", "default")))
    CELLS = PROFILE.cells()
    # Runs that differ in the seed alone have the same settings; each is read once, for there may be thousands of seeds.
    SETTINGS = {run: resolve(PROFILE.name, *run) for run in dict.fromkeys(cell[:2] for cell in CELLS)}
except InputError as error:
    raise WorkflowError(str(error))

# One at a time: another is refused while one runs. What Snakemake locked is of one that was killed, then. Where there
# are no locks of files, Snakemake's own stay in force.
if workflow.is_main_process and not {"-n", "--dry-run", "--dryrun"}.intersection(sys.argv):
    Path(".snakemake").mkdir(exist_ok=True)
    ALONE = FileLock(".snakemake/memgen.lock", blocking=False)  # held until the process ends
    try:
        ALONE.acquire()
        shutil.rmtree(".snakemake/locks", ignore_errors=True)
    except Timeout:
        raise WorkflowError("Another make book is running here; wait for it or stop it.")
    except OSError:
        pass
    if subprocess.run([sys.executable, "-m", "book.build", "pairs"]).returncode:
        raise WorkflowError("Nothing was run.")

PROFILE_STAGES = [stage for stage in STAGES.values() if stage.of_profile]


def cell_stages(cell):
    """The names of the stages that a run has."""
    return stages_of(PROFILE.spec(cell.task))


VEGA = "book/_static/vega.js"
RESULTS = f"results/{PROFILE.name}"
RUN = RESULTS + "/{task}/{model}/seed{seed}"
STAMP = RUN + "/log/{stage}.json"
STAMPS = {cell: [STAMP.format(stage=stage, **cell._asdict()) for stage in cell_stages(cell)] for cell in CELLS}
PROFILE_STAMPS = {stage.name: f"{RESULTS}/log/{stage.name}.json" for stage in PROFILE_STAGES}
SHOWN = PROFILE.shown()  # in the book's chapters
CHAPTERS = [f"book/chapters/{stage}-{cell.task}.ipynb" for cell in SHOWN for stage in cell_stages(cell)]
CHAPTERS += [f"book/chapters/{stage}.ipynb" for stage in PROFILE_STAMPS]
# A profile with other tasks than the table of contents, or without one of its tasks, has results and no book.
IN_CONTENTS = re.findall(r"book/chapters/[\w-]+", Path("_toc.yml").read_text())
BOOK = ["_build/book.stamp"] if {f"{page}.ipynb" for page in IN_CONTENTS} == set(CHAPTERS) else []
# What was published of other profiles: a profile never reads what was published of itself.
PUBLISHED = sorted(
    path
    for path in glob.glob("book/published/*/**/*.*", recursive=True)
    if Path(path).parts[2] not in (PROFILE.name, "models")
)

# Runs stand side by side, each with one thread unless told otherwise: the number of threads changes the last digits of
# sums, and training amplifies that. A graphics card takes as many runs at a time as `--resources accelerator=N` allows.
# What takes long, or leads to it, goes first, so that the end is even.
THREADS = int(config.get("threads", 1))
PRIORITY = {"data": 4, "training": 3, "localization": 2, "steering": 1}
ON_ACCELERATOR = {"accelerator": 1} if Path("/dev/nvidia0").exists() else {}

# A stamp counts only while what it speaks of is there, unchanged. Jobs on a cluster read this file, too, while others
# write their stamps.
if workflow.is_main_process:
    for stamp in map(Path, [*chain(*STAMPS.values()), *PROFILE_STAMPS.values()]):
        manifest = stamp.parent.parent / stamp.stem / "manifest.json"
        if stamp.exists() and not (manifest.exists() and filecmp.cmp(stamp, manifest, shallow=False)):
            stamp.unlink()
    if not Path("_build/html/index.html").exists():
        Path("_build/book.stamp").unlink(missing_ok=True)
    # Snakemake fails a job whose input is newer than what it made: so it would every one after a clock was set back.
    NOW = time.time()
    EDITED = [path for folder in ("memgen", "notebooks", "book") for path in glob.glob(f"{folder}/**/*.*", recursive=True)]
    for path in [*chain(*STAMPS.values()), *PROFILE_STAMPS.values(), "_config.yml", "_toc.yml", *EDITED]:
        with suppress(OSError):
            if os.path.getmtime(path) > NOW:
                os.utime(path, (NOW, NOW))


sources = cache(sources)
SOURCES = {stage: sources(f"notebooks/{stage}.py") for stage in STAGES}


def stage_sources(stage):
    """The stage's sources, and those of the tasks, which are imported by name: the run's own, or all (a function)."""
    if "memgen/tasks/__init__.py" not in SOURCES[stage.name]:
        return SOURCES[stage.name]
    if stage.of_profile:
        return sorted({*SOURCES[stage.name], *sources(*sorted(glob.glob("memgen/tasks/*.py")))})
    return lambda wildcards: SOURCES[stage.name] + sources(f"memgen/tasks/{PROFILE.spec(wildcards.task).task}.py")


def stage_parameters(wildcards):
    """The notebook's parameters."""
    names = {"profile": PROFILE.name, "task": wildcards.task, "model": wildcards.model, "seed": int(wildcards.seed)}
    return json.dumps(names)


def settings_text(stage, settings):
    """The settings that a stage reads, as text."""
    return repr({name: attrgetter(name)(settings) for name in stage.settings})


def stage_table(stage):
    """The user's own table, which the data of its task are made from (a function)."""

    def table(wildcards):
        data = SETTINGS[wildcards.task, wildcards.model].data
        return [data["table"]] if stage.name == "data" and "table" in data else []

    return table


def stage_settings(stage):
    """A parameter function: the text of the run's settings."""
    return lambda wildcards: settings_text(stage, SETTINGS[wildcards.task, wildcards.model])


def last_runs(folder):
    """Of a stage's last run, or where there is none, of its runs with other seeds: MiB, minutes, and graphics cards."""
    paths = glob.glob(f"{folder}/manifest.json") or glob.glob(re.sub("/seed[0-9]+/", "/seed*/", f"{folder}/manifest.json"))
    for path in paths:
        with suppress(OSError, ValueError, KeyError, TypeError):  # a damaged one is made again in any case
            run = json.loads(Path(path).read_text(encoding="utf-8"))
            yield run["peak_memory_bytes"] / 2**20, run["wall_seconds"] / 60, int(run["machine"]["accelerator"] is not None)


def for_cluster(folder):
    """What a job of a cluster asks for: the most of the last runs with a margin, and more at every attempt."""

    def most(i, default, factor, margin):
        def ask(wildcards, attempt):
            measured = [run[i] for run in last_runs(folder.format(**wildcards))]
            return attempt * (int(factor * max(measured)) + margin if measured else default)

        return ask

    card = lambda wildcards: max([run[2] for run in last_runs(folder.format(**wildcards))], default=0)
    return {"mem_mb": most(0, 8000, 1.5, 1000), "runtime": most(1, 720, 2, 15), "gpu": card}


# The executed copy and all that it printed stay in log/; errors that the kernel itself reports go to a third file.
# Freed memory is kept for the next step, but for what is larger than 64 MiB (logits of a pretrained model's vocabulary,
# of another length in each step): kept, it would fragment the heap.
EXECUTE = """
    export MALLOC_TRIM_THRESHOLD_=1073741824 MALLOC_MMAP_THRESHOLD_=67108864
    export OMP_NUM_THREADS={threads} MKL_NUM_THREADS={threads} OPENBLAS_NUM_THREADS={threads} TOKENIZERS_PARALLELISM=false
    echo "▶ {params.label} {rule}: started"
    python -m book.build execute notebooks/{rule}.py {log.notebook} {params.folder} \\
        --parameters {params.parameters:q} --label "{params.label} {rule}" 2> {log.errors} ||
        {{ tail -n 3 {log.errors} >&2; exit 1; }}
    cp {params.folder}/manifest.json {output}
"""


wildcard_constraints:
    seed="[0-9]+",


localrules:
    all,
    book,
    chapters,


rule all:
    """Every stage of every run, and the book. All are named here: Snakemake does not miss what only led to a result."""
    input:
        STAMPS.values(),
        PROFILE_STAMPS.values(),
        BOOK,


rule book:
    """The HTML book, built strictly; the last good one stays until a new one is complete."""
    input:
        chapters=CHAPTERS,
        pages=glob.glob("book/*.md") + glob.glob("book/*.bib"),
        settings=["_config.yml", "_toc.yml"],
        assets=[*glob.glob("book/_static/*.css"), *glob.glob("book/_static/*.woff2"), VEGA, *glob.glob("book/_extensions/*.py")],
        described=sorted(glob.glob("memgen/**/*.py", recursive=True)),  # the page of reference: their docstrings
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
        [STAMPS[cell] for cell in SHOWN],
        PROFILE_STAMPS.values(),
        sources(*sorted(glob.glob("book/build/*.py"))),
        sorted(glob.glob("book/build/*.js") + glob.glob("book/build/*.css") + glob.glob("book/published/models/*/*")),
        "book/meaning.yaml",
    output:
        CHAPTERS,
        VEGA,
    params:
        profile=PROFILE.name,
        version=version("vl-convert-python"),
    shell:
        "python -m book.build stage {params.profile}"


for stage in PROFILE_STAGES:

    rule:
        # All runs of the profile together.
        name:
            stage.name
        input:
            stage_sources(stage),
            STAMPS.values(),
            [PROFILE_STAMPS[name] for name in stage.reads],
            PUBLISHED,
        output:
            PROFILE_STAMPS[stage.name],
        log:
            notebook=f"{RESULTS}/log/{stage.name}.ipynb",
            errors=f"{RESULTS}/log/{stage.name}.err",
        params:
            label=PROFILE.name,
            folder=f"{RESULTS}/{stage.name}",
            parameters=json.dumps({"profile": PROFILE.name}),
            settings=settings_text(stage, PROFILE),
        threads: THREADS
        resources:
            **ON_ACCELERATOR,
            **for_cluster(f"{RESULTS}/{stage.name}"),
        shell:
            EXECUTE


for stage in STAGES.values():
    if stage.of_profile:
        continue

    rule:
        name:
            stage.name
        input:
            stage_sources(stage),
            stage_table(stage),
            expand(STAMP, stage=stage.reads, allow_missing=True),
        output:
            f"{RUN}/log/{stage.name}.json",
        log:
            notebook=f"{RUN}/log/{stage.name}.ipynb",
            errors=f"{RUN}/log/{stage.name}.err",
        params:
            label="{task}/{model}/seed{seed}",
            folder=f"{RUN}/{stage.name}",
            parameters=stage_parameters,
            settings=stage_settings(stage),
        threads: THREADS
        resources:
            **ON_ACCELERATOR,
            **for_cluster(f"{RUN}/{stage.name}"),
        priority: PRIORITY.get(stage.name, 0)
        shell:
            EXECUTE

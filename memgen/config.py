"""What a run is: profile, task, model, seed and their settings, validated when made.

A *profile* is a file of ``config/``. It names the runs (task, models, seeds) and the settings that differ from the
defaults below. The task of a run may carry a label, such as ``inference-matched``: the same task with other settings.
Every error that a user's input can cause is an :class:`InputError`: one sentence that says what came in and what is
allowed.
"""

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import yaml

from memgen.inputs import InputError as InputError  # part of what this module offers
from memgen.inputs import build as build
from memgen.inputs import require

NAME_PATTERN = re.compile(r"[a-z]+(-[a-z0-9]+)*")
MODEL_PATTERN = re.compile(r"(gpt2|llama)-(\d+)x(\d+)")
PUBLISHED_SIZES = {"gpt2": (12, 12, 768), "gpt2-medium": (24, 16, 1024)}
HEAD_WIDTH = 16  # of the small models; the published sizes have heads of 64
LARGEST_SEED = 2**32 - 1  # what numpy takes


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The architecture; the name says all of it: ``gpt2-3x64`` is a GPT-2 with 3 layers of width 64."""

    name: str
    architecture: str
    n_layer: int
    n_head: int
    n_embd: int

    @classmethod
    def from_name(cls, name: str) -> "ModelConfig":
        """Read the sizes from the name."""
        require(isinstance(name, str), f"A model must be a name such as gpt2-3x64, not {name!r}.")
        if name in PUBLISHED_SIZES:
            return cls(name, "gpt2", *PUBLISHED_SIZES[name])
        match = MODEL_PATTERN.fullmatch(name)
        sizes = (int(match[2]), int(match[3])) if match else (0, 0)
        require(
            match is not None and sizes[0] > 0 and sizes[1] > 0 and sizes[1] % HEAD_WIDTH == 0,
            f"The model {name!r} is unknown; allowed are gpt2, gpt2-medium, and gpt2-LxD or llama-LxD with L layers "
            f"of width D, a multiple of {HEAD_WIDTH} (such as gpt2-3x64).",
        )
        assert match is not None
        return cls(name, match[1], sizes[0], sizes[1] // HEAD_WIDTH, sizes[1])


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """The training loop. Steps are optimizer steps; the copy warm-up comes before them."""

    steps: int = 5000
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    warmup_steps: int = 100
    decay_fraction: float = 0.3
    copy_warmup_steps: int = 0
    evaluate_every: int = 250
    evaluation_rows: int = 512
    mixed_precision: str = "no"
    required_accuracy: float = 0.98

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "evaluate_every", "evaluation_rows"):
            value = getattr(self, name)
            require(value > 0, f"training: {name} must be 1 or more, not {value}.")
        for name in ("warmup_steps", "copy_warmup_steps"):
            value = getattr(self, name)
            require(value >= 0, f"training: {name} must be 0 or more, not {value}.")
        require(self.learning_rate > 0, f"training: learning_rate must be above 0, not {self.learning_rate}.")
        require(self.weight_decay >= 0, f"training: weight_decay must be 0 or more, not {self.weight_decay}.")
        for name in ("decay_fraction", "required_accuracy"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"training: {name} must be from 0 to 1, not {value}.")
        allowed = ("no", "bf16", "fp16")
        require(
            self.mixed_precision in allowed,
            f"training: mixed_precision must be one of {', '.join(allowed)}, not {self.mixed_precision!r}.",
        )


@dataclasses.dataclass(frozen=True)
class AnalysisConfig:
    """Localization, prediction and steering.

    Of steering: `max_other`, `max_control` and `max_loss` limit the share of other answers, of inputs that the best
    control brings to the target, and the accuracy lost on inputs with one right answer that the target gives, when a
    shift is chosen. A sweep looks at `sweep_rows` inputs and draws each kind of control
    `sweep_draws` times; on test groups it is drawn `random_draws` times. The first of `norm_penalties` also counts
    where only one layer is fitted.
    """

    batch_size: int = 256
    n_resamples: int = 1000
    n_permutations: int = 20_000
    top_fractions: tuple = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
    alphas: tuple = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
    max_other: float = 0.03
    max_control: float = 0.08
    max_loss: float = 0.01
    sweep_rows: int = 512
    sweep_draws: int = 4
    n_tokens: int = 1
    fit_rows: int = 1024
    fit_batch_size: int = 64
    fit_steps: int = 150
    fit_learning_rate: float = 0.1
    norm_penalties: tuple = (0.1, 0.3, 0.03)
    strengths: tuple = (0.5, 0.75, 1.0, 1.25, 1.5)
    random_draws: int = 3

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is int:
                require(value > 0, f"analysis: {field.name} must be 1 or more, not {value}.")
        require(
            len(self.top_fractions) > 0 and all(0 < f <= 1 for f in self.top_fractions),
            f"analysis: top_fractions must be shares above 0 and at most 1, not {list(self.top_fractions)}.",
        )
        for name in ("alphas", "strengths"):
            values = getattr(self, name)
            allowed = len(values) > 0 and all(value > 0 for value in values)
            require(allowed, f"analysis: {name} must be above 0, not {list(values)}.")
        for name in ("max_other", "max_control", "max_loss"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"analysis: {name} must be from 0 to 1, not {value}.")
        rate, penalties = self.fit_learning_rate, self.norm_penalties
        require(rate > 0, f"analysis: fit_learning_rate must be above 0, not {rate}.")
        allowed = len(penalties) > 0 and all(penalty >= 0 for penalty in penalties)
        require(allowed, f"analysis: norm_penalties must be 0 or more, not {list(penalties)}.")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One run: everything that decides its numbers."""

    profile: str
    task: str
    model: ModelConfig
    seed: int
    task_options: dict[str, Any]
    training: TrainingConfig
    analysis: AnalysisConfig

    @property
    def label(self) -> str:
        """Task, model and seed as they stand in the path of the results."""
        return f"{self.task}/{self.model.name}/seed{self.seed}"

    def to_json(self) -> str:
        """All settings, as text."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True)


Cell = tuple[str, str, int]  # task, model, seed


def grid(runs: dict[str, list[str]], seeds: list[int]) -> list[Cell]:
    """Each task with each of its models and each seed."""
    return [(task, model, seed) for task, models in runs.items() for model in models for seed in seeds]


@dataclasses.dataclass(frozen=True)
class Profile:
    """A file of ``config/``: which runs there are, and their settings.

    `comparisons` are further runs, of seeds of their own: what the main runs are compared with.
    """

    name: str
    runs: dict[str, list[str]]
    seeds: list[int]
    sections: dict[str, Any]
    comparisons: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    comparison_seeds: list[int] = dataclasses.field(default_factory=list)

    def cells(self) -> list[Cell]:
        """Every (task, model, seed) of the profile, the comparisons last."""
        return grid(self.runs, self.seeds) + grid(self.comparisons, self.comparison_seeds)

    def shown(self) -> list[Cell]:
        """The runs that have chapters: of each task without a label the first model and the first seed.

        A label changes settings, not the story: what it changes stands in the chapters that compare runs.
        """
        return [(task, models[0], self.seeds[0]) for task, models in self.runs.items() if task == base_task(task)]


def base_task(name: str) -> str:
    """The task of a name with or without a label: ``inference`` for ``inference-matched``."""
    return name.partition("-")[0]


def root() -> Path:
    """The project's root: the nearest folder above the working directory, else above the package, that is one."""
    here = Path.cwd().resolve()
    for folder in (here, *here.parents, *Path(__file__).resolve().parents):
        if (folder / "config").is_dir() and (folder / "notebooks").is_dir():
            return folder
    raise InputError(
        f"No memgen project was found above {here}: run from the folder that holds config/ and notebooks/."
    )


def profiles() -> list[str]:
    """The names of the profiles that exist."""
    return sorted(path.stem for path in (root() / "config").glob("*.yaml"))


def check_seed(seed: Any) -> None:
    """A seed is a whole number that every library takes."""
    is_whole = isinstance(seed, int) and not isinstance(seed, bool)
    require(
        is_whole and 0 <= seed <= LARGEST_SEED,
        f"seed must be a whole number from 0 to {LARGEST_SEED}, not {seed!r}.",
    )


def load_profile(name: str) -> Profile:
    """Read and validate ``config/<name>.yaml``."""
    known = profiles()
    require(name in known, f"The profile {name!r} is unknown; allowed are {', '.join(known)}.")
    try:
        sections = yaml.safe_load((root() / "config" / f"{name}.yaml").read_text())
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        line = f" in line {place.line + 1}" if place else ""
        raise InputError(f"config/{name}.yaml is not valid YAML{line}.") from None
    file, allowed = f"config/{name}.yaml", ("runs", "seeds", "comparisons", "task", "training", "analysis")
    require(isinstance(sections, dict), f"{file} must have the sections {', '.join(allowed)}.")
    for key in sections:
        require(key in allowed, f"{file} has an unknown section {key!r}; allowed are {', '.join(allowed)}.")
    more = sections.get("comparisons", {})
    is_section = isinstance(more, dict) and set(more) in ({"runs", "seeds"}, set())
    require(is_section, f"{file}: comparisons must hold runs and seeds, not {more!r}.")
    profile = Profile(name, *_check_runs(sections, file), sections, *(_check_runs(more, file) if more else ({}, [])))
    cells = profile.cells()
    for cell in cells:
        require(cells.count(cell) == 1, "{} names {}/{}/seed{} in runs and in comparisons.".format(file, *cell))
    _check_settings(profile, file)
    return profile


def _check_runs(section: dict[str, Any], file: str) -> tuple[dict[str, list[str]], list[int]]:
    """The runs and seeds that a section names, if they are well-formed."""
    runs, seeds = section.get("runs"), section.get("seeds")
    require(bool(runs) and isinstance(runs, dict), f"{file} must name its runs as task: [models].")
    require(bool(seeds) and isinstance(seeds, list), f"{file} must list at least one seed.")
    assert isinstance(runs, dict) and isinstance(seeds, list)
    for seed in seeds:
        check_seed(seed)
    require(len(set(seeds)) == len(seeds), f"{file} names a seed twice: {seeds}.")
    for task, models in runs.items():
        is_name = isinstance(task, str) and NAME_PATTERN.fullmatch(task) is not None
        require(is_name, f"{file}: a task must be a name such as inference or inference-matched, not {task!r}.")
        is_list = isinstance(models, list) and len(models) > 0
        require(is_list, f"{file} must list the models of the task {task!r}, not {models!r}.")
        for model in models:
            ModelConfig.from_name(model)
        require(len(set(models)) == len(models), f"{file} names a model of {task} twice: {models}.")
    return runs, seeds


def _check_settings(profile: Profile, file: str) -> None:
    """Settings are of tasks that the profile runs: all runs of a task, or those of one label."""
    tasks = [*profile.runs, *profile.comparisons]
    for key in ("task", "training"):
        own = profile.sections.get(key) or {}
        require(isinstance(own, dict), f"{file}: {key} must hold settings by task, not {own!r}.")
        for task, values in own.items():
            is_known = task in tasks or task in map(base_task, tasks)
            require(is_known, f"{file}: {key} names {task!r}, but the runs are of {', '.join(dict.fromkeys(tasks))}.")
            is_settings = values is None or isinstance(values, dict)
            require(is_settings, f"{file}: {key} of {task} must be settings by name, not {values!r}.")


def resolve(profile: str, task: str, model: str = "", seed: int = 0) -> RunConfig:
    """The settings of one run; an empty `model` means the first one that the profile names for the task.

    Settings of the task hold for all its runs; those under a name with a label come on top, one by one.

    Raises
    ------
    InputError
        If the profile, task, model or seed is not allowed.
    """
    loaded = load_profile(profile)
    models = loaded.comparisons | loaded.runs
    require(
        isinstance(task, str) and task in models,
        f"The task {task!r} is unknown in the profile {profile}; allowed are "
        f"{', '.join({**loaded.runs, **loaded.comparisons})}.",
    )
    check_seed(seed)
    require(isinstance(model, str), f"model must be a name such as gpt2-3x64, not {model!r}.")

    def section(name: str) -> dict[str, Any]:
        own = loaded.sections.get(name) or {}
        return (own.get(base_task(task)) or {}) | (own.get(task) or {})

    return RunConfig(
        profile=profile,
        task=task,
        model=ModelConfig.from_name(model or models[task][0]),
        seed=seed,
        task_options=section("task"),
        training=build(TrainingConfig, section("training"), "training"),
        analysis=build(AnalysisConfig, loaded.sections.get("analysis"), "analysis"),
    )


def fraction_to_count(fraction: float, total: int) -> int:
    """The number of units in a share of them, at least one."""
    return max(1, math.floor(fraction * total + 0.5))

"""What a run is: profile, task, model, seed and their settings, validated when made.

A *profile* is a file of ``config/``. It names the runs (task, models, seeds) and the settings that differ from the
defaults below. Every error that a user's input can cause is an :class:`InputError`: one sentence that says what came
in and what is allowed.
"""

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import yaml

MODEL_PATTERN = re.compile(r"(gpt2|llama)-(\d+)x(\d+)")
PUBLISHED_SIZES = {"gpt2": (12, 12, 768), "gpt2-medium": (24, 16, 1024)}
HEAD_WIDTH = 16  # of the small models; the published sizes have heads of 64
LARGEST_SEED = 2**32 - 1  # what numpy takes


class InputError(ValueError):
    """A wrong input, in one sentence for the user."""

    def _render_traceback_(self) -> list[str]:
        """Let IPython show the sentence alone, without a traceback."""
        return [f"InputError: {self}"]


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise InputError(sentence)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def build(cls: type, values: dict[str, Any] | None, what: str) -> Any:
    """Make the dataclass `cls` from a mapping; an unknown name or a wrong type is an :class:`InputError`."""
    _require(values is None or isinstance(values, dict), f"{what} must be settings by name, not {values!r}.")
    values = dict(values or {})
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for name, value in values.items():
        _require(name in fields, f"{what} has no setting {name!r}; it has {', '.join(fields)}.")
        default = fields[name].default
        if isinstance(default, tuple):
            is_list = isinstance(value, list | tuple) and all(map(_is_number, value))
            _require(is_list, f"{what}: {name} must be a list of numbers, not {value!r}.")
            values[name] = tuple(value)
        elif isinstance(default, float):
            _require(_is_number(value), f"{what}: {name} must be a number, not {value!r}.")
            values[name] = float(value)
        elif default is not dataclasses.MISSING:
            _require(
                type(value) is type(default),
                f"{what}: {name} must be of type {type(default).__name__}, not {value!r}.",
            )
    return cls(**values)


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
        _require(isinstance(name, str), f"A model must be a name such as gpt2-3x64, not {name!r}.")
        if name in PUBLISHED_SIZES:
            return cls(name, "gpt2", *PUBLISHED_SIZES[name])
        match = MODEL_PATTERN.fullmatch(name)
        sizes = (int(match[2]), int(match[3])) if match else (0, 0)
        _require(
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
    required_accuracy: float = 0.95

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "evaluate_every", "evaluation_rows"):
            value = getattr(self, name)
            _require(value > 0, f"training: {name} must be 1 or more, not {value}.")
        for name in ("warmup_steps", "copy_warmup_steps"):
            value = getattr(self, name)
            _require(value >= 0, f"training: {name} must be 0 or more, not {value}.")
        _require(self.learning_rate > 0, f"training: learning_rate must be above 0, not {self.learning_rate}.")
        _require(self.weight_decay >= 0, f"training: weight_decay must be 0 or more, not {self.weight_decay}.")
        for name in ("decay_fraction", "required_accuracy"):
            value = getattr(self, name)
            _require(0 <= value <= 1, f"training: {name} must be from 0 to 1, not {value}.")
        allowed = ("no", "bf16", "fp16")
        _require(
            self.mixed_precision in allowed,
            f"training: mixed_precision must be one of {', '.join(allowed)}, not {self.mixed_precision!r}.",
        )


@dataclasses.dataclass(frozen=True)
class AnalysisConfig:
    """Localization, prediction and steering."""

    batch_size: int = 256
    n_resamples: int = 1000
    n_permutations: int = 20_000
    top_fractions: tuple = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
    alphas: tuple = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
    max_other: float = 0.03
    fit_rows: int = 1024
    fit_steps: int = 150
    fit_learning_rate: float = 0.1
    norm_penalty: float = 0.1
    random_draws: int = 3

    def __post_init__(self) -> None:
        for name in ("batch_size", "n_resamples", "n_permutations", "fit_rows", "fit_steps", "random_draws"):
            value = getattr(self, name)
            _require(value > 0, f"analysis: {name} must be 1 or more, not {value}.")
        _require(
            len(self.top_fractions) > 0 and all(0 < f <= 1 for f in self.top_fractions),
            f"analysis: top_fractions must be shares above 0 and at most 1, not {list(self.top_fractions)}.",
        )
        _require(
            len(self.alphas) > 0 and all(a > 0 for a in self.alphas),
            f"analysis: alphas must be above 0, not {list(self.alphas)}.",
        )
        _require(0 <= self.max_other <= 1, f"analysis: max_other must be from 0 to 1, not {self.max_other}.")
        rate, penalty = self.fit_learning_rate, self.norm_penalty
        _require(rate > 0, f"analysis: fit_learning_rate must be above 0, not {rate}.")
        _require(penalty >= 0, f"analysis: norm_penalty must be 0 or more, not {penalty}.")


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


@dataclasses.dataclass(frozen=True)
class Profile:
    """A file of ``config/``: which runs there are, and their settings."""

    name: str
    runs: dict[str, list[str]]
    seeds: list[int]
    sections: dict[str, Any]

    def cells(self) -> list[tuple[str, str, int]]:
        """Every (task, model, seed) of the profile."""
        return [(task, model, seed) for task, models in self.runs.items() for model in models for seed in self.seeds]


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
    _require(
        is_whole and 0 <= seed <= LARGEST_SEED,
        f"seed must be a whole number from 0 to {LARGEST_SEED}, not {seed!r}.",
    )


def load_profile(name: str) -> Profile:
    """Read and validate ``config/<name>.yaml``."""
    known = profiles()
    _require(name in known, f"The profile {name!r} is unknown; allowed are {', '.join(known)}.")
    try:
        sections = yaml.safe_load((root() / "config" / f"{name}.yaml").read_text())
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        line = f" in line {place.line + 1}" if place else ""
        raise InputError(f"config/{name}.yaml is not valid YAML{line}.") from None
    allowed = ("runs", "seeds", "task", "training", "analysis")
    _require(isinstance(sections, dict), f"config/{name}.yaml must have the sections {', '.join(allowed)}.")
    for key in sections:
        _require(
            key in allowed,
            f"config/{name}.yaml has an unknown section {key!r}; allowed are {', '.join(allowed)}.",
        )
    runs, seeds = sections.get("runs"), sections.get("seeds")
    _require(bool(runs) and isinstance(runs, dict), f"config/{name}.yaml must name its runs as task: [models].")
    _require(bool(seeds) and isinstance(seeds, list), f"config/{name}.yaml must list at least one seed.")
    for seed in seeds:
        check_seed(seed)
    _require(len(set(seeds)) == len(seeds), f"config/{name}.yaml names a seed twice: {seeds}.")
    for task, models in runs.items():
        _require(isinstance(task, str), f"config/{name}.yaml: a task must be a name, not {task!r}.")
        is_list = isinstance(models, list) and len(models) > 0
        _require(is_list, f"config/{name}.yaml must list the models of the task {task!r}, not {models!r}.")
        for model in models:
            ModelConfig.from_name(model)
        _require(len(set(models)) == len(models), f"config/{name}.yaml names a model of {task} twice: {models}.")
    for key in ("task", "training"):
        own = sections.get(key) or {}
        _require(isinstance(own, dict), f"config/{name}.yaml: {key} must hold settings by task, not {own!r}.")
        for task in own:
            _require(
                task in runs,
                f"config/{name}.yaml: {key} names {task!r}, but the runs are of {', '.join(runs)}.",
            )
    return Profile(name, runs, seeds, sections)


def resolve(profile: str, task: str, model: str = "", seed: int = 0) -> RunConfig:
    """The settings of one run; an empty `model` means the first one that the profile names for the task.

    Raises
    ------
    InputError
        If the profile, task, model or seed is not allowed.
    """
    loaded = load_profile(profile)
    _require(
        isinstance(task, str) and task in loaded.runs,
        f"The task {task!r} is unknown in the profile {profile}; allowed are {', '.join(loaded.runs)}.",
    )
    check_seed(seed)
    _require(isinstance(model, str), f"model must be a name such as gpt2-3x64, not {model!r}.")

    def section(name: str) -> dict[str, Any]:
        return (loaded.sections.get(name) or {}).get(task) or {}

    return RunConfig(
        profile=profile,
        task=task,
        model=ModelConfig.from_name(model or loaded.runs[task][0]),
        seed=seed,
        task_options=section("task"),
        training=build(TrainingConfig, section("training"), "training"),
        analysis=build(AnalysisConfig, loaded.sections.get("analysis"), "analysis"),
    )


def fraction_to_count(fraction: float, total: int) -> int:
    """The number of units in a share of them, at least one."""
    return max(1, math.floor(fraction * total + 0.5))

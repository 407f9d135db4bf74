"""Settings: the profiles of ``config/``, their runs, and the stages of a run.

A *profile* names runs (task, form, conflicts, models, seeds) and the settings that differ from the defaults below. A
*run* has a name of its own, such as ``inference-matched``, which stands in the path of its results.
A *stage* is one notebook; :data:`STAGES` says what each reads.

Every error that a user's input can cause is an :class:`InputError`: one sentence that says what came in and what is
allowed.
"""

import math
import os
import re
from collections.abc import Callable
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

MODEL_PATTERN = re.compile(r"(gpt2|llama)-([1-9]\d*)x([1-9]\d*)")
PUBLISHED_SIZES = {"gpt2": ("gpt2", 12, 12, 768), "gpt2-medium": ("gpt2", 24, 16, 1024)}
PRETRAINED = {"smollm2-135m": "results/models/smollm2-135m"}  # by name the folder that `make model` makes
PATH_PATTERN = re.compile(r"[\w./+-]*[/+][\w./+-]+")
#: Seeds whose test groups had been seen before choices were made: of the graded design (the probe of all layers
#: together, the rule for the dose, the rule for the verdicts), and 20 and 21, of adapters (how many inputs and layers
#: steering is tried on). What rests on them is exploratory.
SEEN_SEEDS = frozenset({*range(8), 20, 21})
HEAD_WIDTH = 16  # of the small models; the published sizes have heads of 64


class InputError(ValueError):
    """A wrong input, in one sentence for the user."""

    def _render_traceback_(self) -> list[str]:
        """Let IPython show the sentence alone, without a traceback."""
        return [f"InputError: {self}"]


def require(condition: bool, sentence: str) -> None:
    """Raise an :class:`InputError` that says `sentence` unless `condition` holds."""
    if not condition:
        raise InputError(sentence)


def _distinct(values: tuple) -> tuple:
    for value in values:
        require(values.count(value) == 1, f"{value} stands twice.")
    return values


Count = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # what numpy takes
Several = Field(min_length=1, strict=False)  # a YAML list is fine for a tuple
Doses = Annotated[tuple[Positive, ...], Several]
Fractions = Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Several]
RunName = Annotated[str, Field(pattern=r"^[a-z_]+(-[a-z0-9]+)*$")]
Form = Literal["study", "matched", "both"]
Conflicts = Literal["none", "graded", "half"]


class Settings(BaseModel):
    """Base of all settings: frozen, without unknown names, with types that are taken strictly.

    ``Settings(...)`` raises pydantic's ``ValidationError`` (a ``ValueError``); :meth:`read` is for what users give.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def read(cls, values: Any, source: str) -> Self:
        """Validate settings that came from `source`, such as a file; the first wrong value is an InputError."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise InputError(f"{source}: {error.errors()[0]['ctx']['error']}") from None

    @model_validator(mode="wrap")
    @classmethod
    def _first_problem_as_sentence(cls, values: Any, validate: Callable[[Any], Self]) -> Self:
        try:
            return validate(values)
        except ValidationError as error:
            problem = error.errors()[0]
        place = "".join(f"{part}: " for part in problem["loc"])
        match problem["type"]:
            case "value_error":  # of a validator, or of settings inside these
                raise ValueError(f"{place}{problem['ctx']['error']}")
            case "extra_forbidden":
                raise ValueError(f"{place}this setting is unknown; allowed are {', '.join(cls.model_fields)}.")
            case "missing":
                raise ValueError(f"{place}this setting is missing.")
        raise ValueError(f"{place}{problem['msg']}, not {problem['input']!r}.")


class ModelConfig(Settings):
    """The architecture; the name says all of it: ``gpt2-3x64`` is a GPT-2 with 3 layers of width 64."""

    name: str
    architecture: str
    n_layer: Count
    n_head: Count
    n_embd: Count

    @classmethod
    def from_name(cls, name: str) -> Self:
        """Read the sizes from the name."""
        sizes, match = PUBLISHED_SIZES.get(str(name)), MODEL_PATTERN.fullmatch(str(name))
        if match:
            sizes = match[1], int(match[2]), int(match[3]) // HEAD_WIDTH, int(match[3])
        if sizes is None or sizes[3] % HEAD_WIDTH:
            raise InputError(
                f"The model {name!r} is unknown; allowed are gpt2, gpt2-medium, gpt2-LxD or llama-LxD with L layers of "
                f"width D, a multiple of {HEAD_WIDTH} (such as gpt2-3x64), {', '.join(PRETRAINED)}, and the path of a "
                "local folder, with a / in it."
            )
        architecture, n_layer, n_head, n_embd = sizes
        return cls(name=name, architecture=architecture, n_layer=n_layer, n_head=n_head, n_embd=n_embd)


class PretrainedConfig(Settings):
    """A pretrained model: `folder` holds it in Hugging Face's format, and counts from the project's root.

    The name of a model that is given by its path is that path with + for /, so that it can stand in the path of the
    results: ``models/my-llama`` is ``models+my-llama``, and either is understood.
    """

    name: str
    folder: str

    @classmethod
    def from_name(cls, name: str) -> Self:
        """The model of that name or path; whether its folder is there is asked when it is read."""
        folder = PRETRAINED.get(name, name.rstrip("/").replace("+", "/"))
        return cls(name=name if name in PRETRAINED else folder.replace("/", "+"), folder=folder)


def read_model(name: str) -> ModelConfig | PretrainedConfig:
    """The model that a name or the path of a folder says."""
    if name not in PRETRAINED and not PATH_PATTERN.fullmatch(str(name)):
        return ModelConfig.from_name(name)
    require("+" not in name or "/" not in name, f"The path {name!r} of a model has a +, which stands for a / there.")
    return PretrainedConfig.from_name(name)


ModelName = Annotated[str, AfterValidator(lambda name: read_model(name).name)]


class LoraConfig(Settings):
    """A low-rank adapter of a pretrained model; the study's by default. `targets` are names of linear layers."""

    rank: Count = 8
    alpha: Count = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    targets: Annotated[tuple[str, ...], Several] = ("q_proj", "v_proj")


class TrainingConfig(Settings):
    """The training loop. Steps are optimizer steps.

    `lessons` is the curriculum that leads to the task's texts: by name the largest number of steps of each lesson, in
    the task's own order; a lesson that is not named is left out. `steps` are those on the texts themselves.
    `checkpoint` says which checkpoint is analysed: the first in which both behaviours are present (``coexistence``, as
    in the study), or the last in which both are learnt (``complete``).

    `optimizer` is ``adamw``, or ``muon``: Muon for the matrices of the blocks and AdamW for the rest.
    `texts_learning_rate` is the learning rate on the texts, where it is another: a lower one widens the window in which
    both behaviours are present.

    `adaptation` says what is trained: all weights (``full``), an adapter of a pretrained model (``lora``), or nothing
    (``none``: a pretrained model as it comes).
    """

    adaptation: Literal["full", "lora", "none"] = "full"
    lora: LoraConfig = LoraConfig()
    lessons: dict[str, Count] = Field(default_factory=dict)
    checkpoint: Literal["coexistence", "complete"] = "coexistence"
    steps: Count = 5000
    batch_size: Count = 64
    learning_rate: Positive = 2e-3
    texts_learning_rate: Positive | None = None
    optimizer: Literal["adamw", "muon"] = "adamw"
    weight_decay: NotNegative = 0.1
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    decay_fraction: Share = 0.3
    evaluate_every: Count = 250
    evaluation_rows: Count = 512
    mixed_precision: Literal["no", "bf16"] = "no"
    required_accuracy: Share = 0.98


class AnalysisConfig(Settings):
    """Localization, prediction and steering.

    At most `patch_pairs` pairs are patched, and heads at the `head_parts` of the prompt. `alphas` are scales of the
    study's shift, `mean_doses` those of the difference in means, `doses` those of a fitted shift. A sweep looks at
    `sweep_rows` inputs and draws each kind of control `sweep_draws` times; on test groups it is drawn `random_draws`
    times. At most `single_layers` layers, from the first to the last, are shifted alone, with the first of
    `norm_penalties`, or have a direction exchanged. Probes see at most `probe_rows` conflicts of a split, or training
    pairs; steering is tested on at most `test_rows`, half of either behaviour, and on all members of flip pairs.
    Carry-over asks an earlier checkpoint `checkpoint_rows` inputs of a kind and split. `max_other`, `max_control` and
    `max_loss` decide nothing: they were limits in earlier editions, and stand in what those published.
    """

    batch_size: Count = 256
    n_permutations: Count = 20_000
    patch_pairs: Count = 200
    head_parts: Annotated[tuple[Literal["rearranged", "shared", "last"], ...], Several] = (
        "rearranged",
        "shared",
        "last",
    )
    top_fractions: Fractions = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
    alphas: Doses = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
    mean_doses: Doses = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
    max_other: Share = 0.03
    max_control: Share = 0.08
    max_loss: Share = 0.01
    sweep_rows: Count = 512
    sweep_draws: Count = 4
    n_tokens: Count = 1
    single_layers: Count = 100
    fit_rows: Count = 1024
    fit_batch_size: Count = 64
    fit_steps: Count = 150
    fit_learning_rate: Positive = 0.1
    norm_penalties: Annotated[tuple[NotNegative, ...], Several] = (0.1, 0.3, 0.03)
    doses: Doses = (0.5, 0.75, 1.0, 1.25, 1.5)
    random_draws: Count = 3
    probe_rows: Count = 1500
    test_rows: Count = 2048
    checkpoint_rows: Count = 100_000


class PlantedConfig(Settings):
    """Planted memory: in each block of a model that infers, an adapter of each of the `ranks`; without any, none.

    The models are those of the first seed of the `runs`. An adapter is trained for at most so many `steps`.
    """

    runs: Annotated[tuple[str, ...], Field(strict=False)] = ("inference",)
    ranks: Annotated[tuple[Count, ...], Field(strict=False)] = ()
    steps: Count = 400
    batch_size: Count = 64
    learning_rate: Positive = 1e-2


class CarryoverConfig(Settings):
    """Carry-over looks at so many earlier `checkpoints` of one run of each task; where at none, at published ones.

    `tasks` are those of whose runs checkpoints are looked at; none named means all.
    """

    checkpoints: Annotated[int, Field(ge=0)] = 0
    tasks: Annotated[tuple[RunName, ...], Field(strict=False), AfterValidator(_distinct)] = ()


class RunSpec(Settings):
    """A run as a profile names it.

    `form` says whether the two answers differ in format, `conflicts` how the training texts end that show a conflict:
    ``none`` says that there are no such texts, as in the study; the graded tasks also know ``graded`` (by evidence or
    binding) and ``half`` (each answer equally often). `data`, `training` and `analysis` are settings on top of those
    that the profile has, for the task or for all.
    A run that is not `analysed` ends with its training: of such models only behavior is asked. `seeds` are those of the
    profile, if the run has none of its own.
    """

    task: RunName
    models: Annotated[tuple[ModelName, ...], Several, AfterValidator(_distinct)]
    form: Form = "study"
    conflicts: Conflicts = "none"
    analysed: bool = True
    seeds: Annotated[tuple[Seed, ...], Field(strict=False), AfterValidator(_distinct)] = ()
    data: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    analysis: dict[str, Any] = Field(default_factory=dict)


class Cell(NamedTuple):
    """One run of a profile: the run's name, its model and its seed."""

    task: str
    model: str
    seed: int


class Grid(Settings):
    """Runs, each with all of its models and all of the seeds."""

    runs: Annotated[dict[RunName, RunSpec], Field(min_length=1)]
    seeds: Annotated[tuple[Seed, ...], Several, AfterValidator(_distinct)]

    @field_validator("runs", mode="before")
    @classmethod
    def _task_is_the_name(cls, runs: Any) -> Any:
        """A run that names no task is called as its task is."""
        if not isinstance(runs, dict):
            return runs
        return {name: {"task": name} | spec if isinstance(spec, dict) else spec for name, spec in runs.items()}

    def cells(self) -> list[Cell]:
        """Each run with each of its models and each seed."""
        return [
            Cell(name, model, seed)
            for name, spec in self.runs.items()
            for model in spec.models
            for seed in spec.seeds or self.seeds
        ]


class Profile(Grid):
    """A file of ``config/``: which runs there are, and their settings.

    `data` and `training` hold settings by task, for all of its runs. `comparisons` are further runs, of other seeds:
    what the main runs are compared with.
    """

    name: str
    comparisons: Grid | None = None
    data: dict[str, dict[str, Any]] = Field(default_factory=dict)
    training: dict[str, dict[str, Any]] = Field(default_factory=dict)
    analysis: AnalysisConfig = AnalysisConfig()
    planted: PlantedConfig = PlantedConfig()
    carryover: CarryoverConfig = CarryoverConfig()

    @model_validator(mode="after")
    def _runs_agree(self) -> Self:
        _distinct(tuple(self.cells()))
        for name, spec in self.comparisons.runs.items() if self.comparisons else ():
            main = self.spec(name)
            same = spec.model_copy(update={"models": main.models, "seeds": main.seeds}) == main
            require(same, f"{name} has other settings in runs than in comparisons.")
        tasks = {self.spec(name).task for name in self.names()}
        for task in (*self.data, *self.training, *self.carryover.tasks):
            require(task in tasks, f"{task!r} has settings, but the tasks of the runs are {', '.join(sorted(tasks))}.")
        return self

    def names(self) -> list[str]:
        """The names of all runs, the comparisons last."""
        return list(dict.fromkeys([*self.runs, *(self.comparisons.runs if self.comparisons else [])]))

    def spec(self, name: str) -> RunSpec:
        """The run of that name; with the models of the comparisons only where it is no main run."""
        return ((self.comparisons.runs if self.comparisons else {}) | self.runs)[name]

    def analysis_of(self, name: str) -> AnalysisConfig:
        """The settings of the analysis of the run of that name."""
        return AnalysisConfig.read(dict(self.analysis) | self.spec(name).analysis, f"The analysis of {name}")

    def main_cells(self) -> list[Cell]:
        """The runs that are no comparisons."""
        return super().cells()

    def cells(self) -> list[Cell]:
        """Every run of the profile, the comparisons last."""
        return self.main_cells() + (self.comparisons.cells() if self.comparisons else [])

    def shown(self) -> list[Cell]:
        """The runs that have chapters: of each task as it is, its first model and its first seed."""
        main = [(name, spec) for name, spec in self.runs.items() if name == spec.task]
        return [Cell(name, spec.models[0], (spec.seeds or self.seeds)[0]) for name, spec in main]

    def is_alike(self, other: "Profile") -> bool:
        """Whether both profiles give the same settings to what both run; models and seeds may differ."""
        both, free = self.runs.keys() & other.runs.keys(), {"models": (), "seeds": ()}
        specs = [[profile.runs[name].model_copy(update=free) for name in both] for profile in (self, other)]
        parts = [(profile.data, profile.training, profile.analysis) for profile in (self, other)]
        return bool(both) and specs[0] == specs[1] and parts[0] == parts[1]


class RunConfig(Settings):
    """One run: everything that decides its numbers. `task` is the run's name, `base_task` the task that it is of."""

    profile: str
    task: str
    base_task: str
    form: Form
    conflicts: Conflicts
    model: ModelConfig | PretrainedConfig
    seed: Seed
    data: dict[str, Any]
    training: TrainingConfig
    analysis: AnalysisConfig

    @model_validator(mode="after")
    def _adapts_what_is_pretrained(self) -> Self:
        if not isinstance(self.model, PretrainedConfig):
            adaptation = self.training.adaptation
            needs = f"is for a pretrained model, and {self.model.name} is trained from scratch"
            require(adaptation == "full", f"The adaptation {adaptation!r} {needs}; allowed is 'full'.")
            require(self.base_task != "table", f"The task table {needs}.")
        return self

    @property
    def label(self) -> str:
        """Run, model and seed as they stand in the path of the results."""
        return f"{self.task}/{self.model.name}/seed{self.seed}"


class Stage(NamedTuple):
    """A notebook.

    `reads` are the earlier stages of the same run; a stage of the whole profile reads every run, and these.
    `settings` are the fields of :class:`RunConfig` that it reads: those of earlier stages reach it through their
    results.
    """

    name: str
    reads: tuple[str, ...]
    settings: tuple[str, ...]
    of_profile: bool = False


_OF_DATA = ("base_task", "form", "conflicts", "data")
_STAGES = (
    Stage("data", (), _OF_DATA),
    Stage("training", ("data",), (*_OF_DATA, "model", "training", "analysis.batch_size")),
    Stage(
        "localization",
        ("data", "training"),
        tuple(f"analysis.{name}" for name in "batch_size fit_batch_size n_permutations patch_pairs head_parts".split()),
    ),
    Stage("prediction", ("data", "training", "localization"), ("analysis.batch_size", "analysis.probe_rows")),
    Stage("steering", ("data", "training", "localization"), ("analysis",)),
    Stage("planted", (), ("planted", "analysis"), of_profile=True),
    Stage("carryover", (), ("analysis", "carryover"), of_profile=True),
    Stage("synthesis", ("carryover", "planted"), ("analysis",), of_profile=True),
)
#: The stages by name, in their order.
STAGES = {stage.name: stage for stage in _STAGES}


def stages_of(spec: RunSpec) -> tuple[str, ...]:
    """The stages that a run has; of a run that is not analysed only behavior is asked."""
    if not spec.analysed:
        return ("data", "training")
    return tuple(stage.name for stage in STAGES.values() if not stage.of_profile)


def sources(*scripts: str | Path) -> list[str]:
    """The scripts, all modules of memgen that they import, directly or through others, and the texts beside those."""
    finder = ModuleFinder(path=[str(Path(__file__).parents[1])], excludes=["book"])
    for script in scripts:
        finder.run_script(str(script))
    modules = [module.__file__ for module in finder.modules.values() if module.__file__]  # type: ignore[attr-defined]
    texts = [text for name in modules if (text := Path(name).with_suffix(".txt")).exists()]
    return sorted({os.path.relpath(name) for name in [*scripts, *modules, *texts]})


def root() -> Path:
    """The project's root: the nearest folder above the working directory, else above the package, that is one."""
    here = Path.cwd().resolve()
    for folder in (here, *here.parents, *Path(__file__).resolve().parents):
        if (folder / "config").is_dir() and (folder / "notebooks").is_dir():
            return folder
    raise InputError(f"No memgen project was found above {here}: it is a folder that holds config/ and notebooks/.")


class Yaml(yaml.SafeLoader):
    """YAML as it is written: a key stands once, and a plain word is a number only if it is one.

    PyYAML reads YAML 1.1, in which ``no`` is false, ``010`` is 8 and ``1:30`` is 90; here they are as in YAML 1.2.
    """

    yaml_implicit_resolvers: ClassVar[dict] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """The mapping; a key that stands twice is an InputError."""
        known: list[Any] = []
        for key, _ in node.value:
            known.append(self.construct_object(key, deep=True))
            line = key.start_mark.line + 1
            require(known.count(known[-1]) == 1, f"{self.name} has {known[-1]!r} twice, again in line {line}.")
        return super().construct_mapping(node, deep)


for kind, pattern, first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
):
    Yaml.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(f"({pattern})$"), list(first))
Yaml.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(loader.construct_scalar(node)))


def profiles() -> list[str]:
    """The names of the profiles that exist."""
    return sorted(path.stem for path in (root() / "config").glob("*.yaml") if path.is_file())


def load_profile(name: str) -> Profile:
    """Read and validate ``config/<name>.yaml``."""
    known = profiles()
    require(name in known, f"The profile {name!r} is unknown; allowed are {', '.join(known)}.")
    file = f"config/{name}.yaml"
    try:
        loader = Yaml((root() / file).read_text(encoding="utf-8"))
        loader.name = file
        sections = loader.get_single_data()
    except InputError:
        raise
    except (yaml.YAMLError, ValueError) as error:  # such as a byte that is no UTF-8
        place = getattr(error, "problem_mark", None)
        raise InputError(f"{file} is not valid YAML{f' in line {place.line + 1}' if place else ''}.") from None
    require(isinstance(sections, dict), f"{file} must have sections, such as runs and seeds, not {sections!r}.")
    return Profile.read(sections | {"name": name}, file)


def resolve(profile: str, task: str, model: str = "", seed: int = 0, table: str = "") -> RunConfig:
    """The settings of one run; an empty `model` means the first one that the profile names for it.

    `table` is the path of a table of the user's own, the one of the run otherwise. A profile need not name the task
    ``table``: without a run of that name, its first model is taken as it comes.
    """
    loaded = load_profile(profile)
    names = loaded.names()
    is_own, known = task == "table" and task not in names, ", ".join(names)
    require(is_own or task in names, f"The task {task!r} is unknown in the profile {profile}; allowed are {known}.")
    as_it_comes = RunSpec(task="table", models=loaded.spec(names[0]).models, training={"adaptation": "none"})
    spec = as_it_comes if is_own else loaded.spec(task)
    data = loaded.data.get(spec.task, {}) | spec.data | ({"table": table} if table else {})
    if spec.task == "table":
        path = str(data.get("table", ""))
        require(path != "", "The task table needs the path of a table, such as -p table my.csv.")
        require((root() / path).is_file(), f"The table {path} was not found in {root()}.")
    require(table == "" or spec.task == "table", f"The table {table!r} is for the task table, not for {task}.")
    training = loaded.training.get(spec.task, {}) | spec.training
    values = {
        "profile": profile,
        "task": task,
        "base_task": spec.task,
        "form": spec.form,
        "conflicts": spec.conflicts,
        "model": read_model(spec.models[0] if model == "" else model),
        "seed": seed,
        "data": data,
        "training": TrainingConfig.read(training, f"The training of {task}"),
        "analysis": loaded.analysis if is_own else loaded.analysis_of(task),
    }
    return RunConfig.read(values, "The run")


def trained_otherwise(run: RunConfig, **given: str | int) -> TrainingConfig:
    """A run's training settings with those changed that a notebook was given; 0 or empty is as the profile says."""
    changes = {name: value for name, value in given.items() if value}
    training = TrainingConfig.read(dict(run.training) | changes, "The training")
    return RunConfig.read(dict(run) | {"training": training}, "The run").training


def fraction_to_count(fraction: float, total: int) -> int:
    """The number of units in a share of them, at least one."""
    return max(1, math.floor(fraction * total + 0.5))

"""Settings: what the profiles say, and one sentence for whatever is wrong."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from memgen import config, tasks
from memgen.config import STAGES, AnalysisConfig, Cell, InputError, ModelConfig, RunConfig, TrainingConfig

ROOT = Path(__file__).resolve().parents[1]
PROFILES = sorted(path.stem for path in (ROOT / "config").glob("*.yaml"))
TINY = """
runs:
  inference: {models: [gpt2-2x32, llama-1x16]}
  addition: {models: [gpt2-2x32]}
  addition-matched: {task: addition, form: matched, models: [gpt2-2x32], training: {steps: 9}, analysis: {fit_rows: 9}}
seeds: [0, 3]
comparisons:
  seeds: [1]
  runs:
    addition: {models: [gpt2-3x64]}
    addition-half: {task: addition, conflicts: half, models: [gpt2-1x16], data: {n_bound: 30}}
data: {addition: {digits: 2, n_bound: 40}}
training: {inference: {steps: 7, learning_rate: 1}, addition: {lessons: {copy: 5}}}
analysis: {alphas: [1, 2.5]}
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project with the profile tiny."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "tiny.yaml").write_text(TINY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sentence(caught):
    """What the user reads: one sentence, and IPython shows no more than that."""
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    assert caught.value._render_traceback_() == [f"InputError: {text}"]
    return text


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"profile": "huge"}, ["'huge'", "tiny"]),
        ({"profile": 3}, ["3", "tiny"]),
        ({"task": "chess"}, ["'chess'", "inference, addition, addition-matched, addition-half"]),
        ({"task": ["inference"]}, ["['inference']", "addition"]),
        ({"model": "bert"}, ["'bert'", "gpt2-medium", "gpt2-LxD"]),
        ({"model": "gpt2-0x64"}, ["'gpt2-0x64'", "gpt2-LxD"]),
        ({"model": "gpt2-3x0"}, ["'gpt2-3x0'", "multiple of 16"]),
        ({"model": "gpt2-3x40"}, ["'gpt2-3x40'", "multiple of 16"]),
        ({"model": "gpt2-3x64 "}, ["'gpt2-3x64 '"]),
        ({"model": "bert-3x64"}, ["'bert-3x64'", "llama-LxD"]),
        ({"model": 3}, ["3", "gpt2-3x64"]),
        ({"seed": -1}, ["seed", "-1", "0"]),
        ({"seed": True}, ["seed", "True", "integer"]),
        ({"seed": 1.0}, ["seed", "1.0", "integer"]),
        ({"seed": "0"}, ["seed", "'0'", "integer"]),
        ({"seed": 2**32}, ["seed", str(2**32), str(2**32 - 1)]),
    ],
)
def test_wrong_run(project, given, parts):
    with pytest.raises(InputError) as caught:
        config.resolve(**{"profile": "tiny", "task": "inference", **given})
    text = sentence(caught)
    assert all(part in text for part in parts), text


def test_a_folder_outside_any_project_names_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "__file__", str(tmp_path / "memgen" / "config.py"))
    with pytest.raises(InputError) as caught:
        config.root()
    assert str(tmp_path) in sentence(caught)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ("[1, 2]", ["config/tiny.yaml must have sections", "[1, 2]"]),
        ("", ["config/tiny.yaml must have sections", "None"]),
        ("{runs: [", ["not valid YAML", "line 1"]),
        ({"rums": {}}, ["rums", "allowed are runs, seeds"]),
        ({"runs": None}, ["runs", "None"]),
        ({"runs": {}}, ["runs", "{}"]),
        ({"runs": ["inference"]}, ["runs", "['inference']"]),
        ({"runs": {"inference": {}}}, ["runs: inference: models", "missing"]),
        ({"runs": {"inference": ["gpt2"]}}, ["runs: inference", "['gpt2']"]),
        ({"runs": {"inference": {"models": "gpt2"}}}, ["runs: inference: models", "'gpt2'"]),
        ({"runs": {"inference": {"models": []}}}, ["models", "[]"]),
        ({"runs": {"inference": {"models": [3]}}}, ["models", "3"]),
        ({"runs": {"inference": {"models": ["gpt3"]}}}, ["'gpt3'", "gpt2-LxD"]),
        ({"runs": {"inference": {"models": ["gpt2", "gpt2"]}}}, ["models", "gpt2 stands twice"]),
        (
            {"runs": {"inference": {"models": ["gpt2"], "modls": 1}}},
            ["modls", "allowed are task, models, form, conflicts"],
        ),
        ({"runs": {"inference": {"models": ["gpt2"], "form": "new"}}}, ["form", "'new'", "'study', 'matched' or"]),
        (
            {"runs": {"inference": {"models": ["gpt2"], "conflicts": "few"}}},
            ["conflicts", "'few'", "'none', 'graded' or 'half'"],
        ),
        ({"runs": {1: {"models": ["gpt2"]}}}, ["runs", "1"]),
        ({"runs": {"Inference": {"models": ["gpt2"]}}}, ["runs", "'Inference'"]),
        ({"runs": {"in/ference": {"models": ["gpt2"]}}}, ["runs", "'in/ference'"]),
        ({"comparisons": [1]}, ["comparisons", "[1]"]),
        ({"comparisons": {"runs": {"addition": {"models": ["gpt2"]}}}}, ["comparisons: seeds", "missing"]),
        (
            {"comparisons": {"runs": {"addition": {"models": ["gpt2-2x32"]}}, "seeds": [1, 3]}},
            ["addition", "gpt2-2x32", "3", "stands twice"],
        ),
        (
            {"comparisons": {"runs": {"addition": {"models": ["gpt2-1x16"], "form": "both"}}, "seeds": [1]}},
            ["addition has other settings"],
        ),
        ({"seeds": []}, ["seeds", "[]"]),
        ({"seeds": 0}, ["seeds", "0"]),
        ({"seeds": [0, -1]}, ["seeds: 1", "-1"]),
        ({"seeds": [True]}, ["seeds: 0", "True"]),
        ({"seeds": [1, 1]}, ["1 stands twice"]),
        ({"data": {"inferense": {}}}, ["'inferense'", "addition, inference"]),
        ({"training": {"addition-matched": {}}}, ["'addition-matched'", "addition, inference"]),
        ({"training": [1]}, ["training", "[1]"]),
        ({"training": {"inference": 3}}, ["training: inference", "3"]),
        ({"training": {"inference": {"step": 3}}}, ["step", "steps, batch_size, learning_rate"]),
        ({"training": {"inference": {"lessons": {"copy": 0}}}}, ["lessons: copy", "0"]),
        ({"training": {"inference": {"mixed_precision": "fp16"}}}, ["fp16", "bf16"]),
        ({"analysis": "fast"}, ["analysis", "'fast'"]),
        ({"analysis": {"alpha": 3}}, ["analysis: alpha", "alphas"]),
        ({"carryover": {"tasks": ["addition", "chess"]}}, ["'chess'", "addition, inference"]),
    ],
)
def test_wrong_profile(project, change, parts):
    text = change if isinstance(change, str) else yaml.safe_dump(yaml.safe_load(TINY) | change, sort_keys=False)
    (project / "config" / "tiny.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        config.resolve("tiny", "inference")
    text = sentence(caught)
    assert all(part in text for part in parts), text


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("training: {inference: {steps: 7}}\ntraining: {}\n", ["config/tiny.yaml has 'training' twice", "line 15"]),
        ("analysis: {n_tokens: 1, n_tokens: 2}\n", ["'n_tokens' twice", "line 14"]),
        ("analysis: {n_tokens: 1:30}\n", ["n_tokens", "'1:30'"]),
        ("analysis: {n_tokens: 1_000}\n", ["n_tokens", "'1_000'"]),
        ("analysis: {n_tokens: 0x10}\n", ["n_tokens", "'0x10'"]),
        ("analysis: {max_other: off}\n", ["max_other", "'off'"]),
        ("analysis: {max_other: .nan}\n", ["max_other", "'.nan'"]),
        ("analysis: {n_tokens: 2001-01-01}\n", ["n_tokens", "'2001-01-01'"]),
        ("analysis: {n_tokens: !!int one}\n", ["config/tiny.yaml is not valid YAML"]),
        ("analysis: &a {n_tokens: 1}\ndata: {addition: {<<: *a}, addition: {}}\n", ["'addition' twice"]),
    ],
)
def test_yaml_that_means_something_else_than_it_says_is_refused(project, text, parts):
    name = text.partition(":")[0]
    kept = "".join(line + "\n" for line in TINY.splitlines() if not line.startswith((f"{name}:", "data:")))
    (project / "config/tiny.yaml").write_text("\n" * (13 - kept.count("\n")) + kept + text)
    with pytest.raises(InputError) as caught:
        config.load_profile("tiny")
    assert all(part in sentence(caught) for part in parts), sentence(caught)


def test_yaml_means_what_it_says(project):
    text = TINY.replace("steps: 7, learning_rate: 1", "steps: 010, learning_rate: 2e-3, mixed_precision: no")
    assert text != TINY
    (project / "config/tiny.yaml").write_text(text)
    training = config.resolve("tiny", "inference").training
    assert (training.steps, training.learning_rate, training.mixed_precision) == (10, 0.002, "no")


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [
        (TrainingConfig, "steps", 0),
        (TrainingConfig, "steps", 500.0),
        (TrainingConfig, "steps", True),
        (TrainingConfig, "steps", "500"),
        (TrainingConfig, "warmup_steps", -1),
        (TrainingConfig, "learning_rate", 0.0),
        (TrainingConfig, "learning_rate", "2e-3"),  # what YAML makes of 2e-3, without a point
        (TrainingConfig, "learning_rate", float("nan")),
        (TrainingConfig, "learning_rate", float("inf")),
        (TrainingConfig, "learning_rate", True),
        (TrainingConfig, "weight_decay", -0.1),
        (TrainingConfig, "decay_fraction", 1.5),
        (TrainingConfig, "mixed_precision", "fp8"),
        (TrainingConfig, "checkpoint", "last"),
        (TrainingConfig, "optimizer", "sgd"),
        (TrainingConfig, "texts_learning_rate", 0.0),
        (AnalysisConfig, "top_fractions", 0.1),
        (AnalysisConfig, "top_fractions", []),
        (AnalysisConfig, "top_fractions", [0.0]),
        (AnalysisConfig, "top_fractions", ["all"]),
        (AnalysisConfig, "alphas", [-1.0]),
        (AnalysisConfig, "alphas", [True]),
        (AnalysisConfig, "max_other", 2.0),
        (AnalysisConfig, "norm_penalties", [0.1, -1.0]),
        (AnalysisConfig, "doses", [0.0]),
        (AnalysisConfig, "n_tokens", 0),
    ],
)
def test_wrong_setting(cls, name, value):
    with pytest.raises(InputError) as caught:
        cls.read({name: value}, "The section")
    text = sentence(caught)
    assert text.startswith(f"The section: {name}: ")
    assert any(repr(part) in text for part in (value, *(value if isinstance(value, list) else ()))), text
    with pytest.raises(ValidationError):
        cls(**{name: value})


def test_settings_take_whole_numbers_and_lists():
    made = TrainingConfig.read({"learning_rate": 1, "steps": 3}, "training")
    assert type(made.learning_rate) is float
    assert (made.learning_rate, made.steps) == (1.0, 3)
    assert AnalysisConfig.read({"alphas": [1, 2.5]}, "analysis").alphas == (1.0, 2.5)
    with pytest.raises(ValidationError):
        made.steps = 4


def test_settings_of_a_run_stand_on_those_of_its_task(project):
    run = config.resolve("tiny", "inference")
    assert run.model == ModelConfig(name="gpt2-2x32", architecture="gpt2", n_layer=2, n_head=2, n_embd=32)
    assert (run.base_task, run.form, run.conflicts, run.data) == ("inference", "study", "none", {})
    assert run.training == TrainingConfig(steps=7, learning_rate=1.0)
    assert run.analysis.alphas == (1, 2.5)

    matched = config.resolve("tiny", "addition-matched", "llama-1x16", 5)
    assert (matched.label, matched.model.architecture) == ("addition-matched/llama-1x16/seed5", "llama")
    assert (matched.base_task, matched.form) == ("addition", "matched")
    assert matched.training == TrainingConfig(steps=9, lessons={"copy": 5})
    assert matched.analysis == AnalysisConfig(alphas=(1.0, 2.5), fit_rows=9)
    assert config.load_profile("tiny").analysis_of("addition-matched") == matched.analysis

    half = config.resolve("tiny", "addition-half")
    assert (half.model.name, half.conflicts) == ("gpt2-1x16", "half")
    assert half.data == {"digits": 2, "n_bound": 30}
    assert RunConfig.model_validate_json(half.model_dump_json()) == half


def test_cells_of_a_profile(project):
    profile = config.load_profile("tiny")
    main = [
        Cell("inference", "gpt2-2x32", 0),
        Cell("inference", "gpt2-2x32", 3),
        Cell("inference", "llama-1x16", 0),
        Cell("inference", "llama-1x16", 3),
        Cell("addition", "gpt2-2x32", 0),
        Cell("addition", "gpt2-2x32", 3),
        Cell("addition-matched", "gpt2-2x32", 0),
        Cell("addition-matched", "gpt2-2x32", 3),
    ]
    assert profile.main_cells() == main
    assert profile.cells() == [*main, Cell("addition", "gpt2-3x64", 1), Cell("addition-half", "gpt2-1x16", 1)]
    # Chapters tell of a task as it is: no variants, no comparisons, the first model and seed.
    assert profile.shown() == [Cell("inference", "gpt2-2x32", 0), Cell("addition", "gpt2-2x32", 0)]


def test_a_task_needs_no_change_here(project):
    (project / "config" / "tiny.yaml").write_text(
        "{runs: {echo: {models: [gpt2-1x16]}}, seeds: [0], data: {echo: {n: 3}}}"
    )
    assert config.resolve("tiny", "echo").data == {"n": 3}


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("gpt2", ("gpt2", 12, 12, 768)),
        ("gpt2-medium", ("gpt2", 24, 16, 1024)),
        ("gpt2-3x64", ("gpt2", 3, 4, 64)),
        ("llama-12x128", ("llama", 12, 8, 128)),
    ],
)
def test_model_names_say_the_sizes(name, sizes):
    model = ModelConfig.from_name(name)
    assert (model.name, model.architecture, model.n_layer, model.n_head, model.n_embd) == (name, *sizes)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_resolves(profile, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert config.profiles() == PROFILES
    loaded = config.load_profile(profile)
    for cell in loaded.cells():
        run = config.resolve(profile, *cell)
        assert (run.profile, run.label) == (profile, f"{cell.task}/{cell.model}/seed{cell.seed}")
        tasks.from_config(run)  # refuses settings that the task does not have


@pytest.mark.parametrize("profile", ["smoke", "default", "full", "paper"])
def test_profiles_with_a_book_show_both_tasks(profile, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert {cell.task for cell in config.load_profile(profile).shown()} == {"inference", "addition"}


def test_the_full_profile_has_every_run_of_the_default_one(monkeypatch):
    monkeypatch.chdir(ROOT)
    cells = config.load_profile("default").cells()
    assert set(cells) <= set(config.load_profile("full").cells())
    for cell in cells:
        default, full = (config.resolve(profile, *cell) for profile in ("default", "full"))
        assert full.model_copy(update={"profile": "default"}) == default, cell


def test_profiles_are_alike_if_only_seeds_models_and_further_runs_differ(monkeypatch):
    monkeypatch.chdir(ROOT)
    default, full, smoke = (config.load_profile(name) for name in ("default", "full", "smoke"))
    assert default.is_alike(full)
    assert full.is_alike(default)
    assert not default.is_alike(smoke)
    assert not default.is_alike(config.load_profile("graded")), "no run in common"
    steps = full.training | {"addition": full.training["addition"] | {"steps": 601}}
    assert not default.is_alike(full.model_copy(update={"training": steps}))
    runs = full.runs | {"addition": full.runs["addition"].model_copy(update={"form": "matched"})}
    assert not default.is_alike(full.model_copy(update={"runs": runs}))


def test_models_of_the_study(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert {cell[:2] for cell in config.load_profile("paper").cells()} == {
        ("inference", "gpt2-medium"),
        ("addition", "gpt2"),
    }


def test_stages_read_earlier_ones_of_their_run():
    names = list(STAGES)
    assert names[-3:] == ["planted", "carryover", "synthesis"]
    for name, stage in STAGES.items():
        assert all(names.index(earlier) < names.index(name) for earlier in stage.reads)


def test_a_run_that_is_not_analysed_ends_with_its_training():
    spec = config.RunSpec(task="addition", models=("gpt2-2x32",))
    assert config.stages_of(spec) == ("data", "training", "localization", "prediction", "steering")
    assert config.stages_of(spec.model_copy(update={"analysed": False})) == ("data", "training")


@pytest.mark.parametrize("profile", ["smoke", "default", "full"])
def test_the_main_runs_have_seeds_that_nobody_has_looked_at(profile, monkeypatch):
    monkeypatch.chdir(ROOT)
    loaded = config.load_profile(profile)
    assert not config.SEEN_SEEDS & {cell.seed for cell in loaded.cells()}
    assert {loaded.spec(name).conflicts for name in loaded.runs} == {"none"}, "the study's protocol"


def test_root_is_the_nearest_project_above(project, monkeypatch):
    deep = project / "results" / "tiny"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert config.root() == project.resolve()


@pytest.mark.parametrize(("fraction", "total", "count"), [(0.5, 10, 5), (0.25, 10, 3), (0.001, 10, 1), (1.0, 10, 10)])
def test_fraction_to_count(fraction, total, count):
    assert config.fraction_to_count(fraction, total) == count

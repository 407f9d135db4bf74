"""Training: the schedule, the lessons in their order, exact resumption, and the choice of a checkpoint."""

import json
import shutil
import types

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from memgen import activations, behavior, training
from memgen.config import ModelConfig, TrainingConfig
from memgen.subject import Subject
from memgen.tasks import graded_addition as addition
from memgen.tasks.lessons import IGNORED, LONGEST_COPY, Lesson, drawn, pack
from tests.conftest import tiny_model

SCHEDULE = TrainingConfig(steps=100, warmup_steps=10, decay_fraction=0.3)
SHORT = TrainingConfig(
    steps=10, lessons={"copy": 5}, batch_size=8, warmup_steps=3, evaluate_every=3, learning_rate=1e-2
)
# A lesson that ends by its accuracy, well before its 90 steps; one that lasts as long as it may; the texts. Where each
# is evaluated, counted from the end of the first.
AFTER_EASY = [("easy", 0), ("copy", 5), ("texts", 8), ("texts", 11), ("texts", 14), ("texts", 15)]


@pytest.fixture(scope="module")
def sums():
    """A task that is quick to train on: tokenizer, texts, prompts."""
    task = addition.Task(n_bound=10, corpus_size=300, unbound_per_split=10)
    data = task.generate(np.random.default_rng(0))
    tokenizer = task.tokenizer()
    packed = pack(data.corpus, tokenizer.pad_token_id)
    return types.SimpleNamespace(
        task=task, data=data, tokenizer=tokenizer, packed=packed, prompts=data.splits["validation"]
    )


def easy(seed, until=0.7):
    """A lesson that is soon learnt: two tokens in turn."""

    def draw(rng, n):
        return np.tile([5, 6, 5, 6, 5, 6], (n, 1)), np.arange(6) > np.zeros((n, 1))

    return drawn("easy", draw, 90, 8, seed, until)


def new_model(sums, name="gpt2-1x16", seed=0):
    torch.manual_seed(seed)
    configuration = training.model_configuration(ModelConfig.from_name(name), sums.tokenizer, sums.packed.shape[1])
    return AutoModelForCausalLM.from_config(configuration)


def weight_sum(model):
    """An evaluation that costs nothing and tells any difference between weights."""
    return {"sum": float(sum(p.detach().double().abs().sum() for p in model.parameters()))}


def fit(sums, folder, config=SHORT, name="gpt2-1x16", seed=0, before=(), **options):
    model = new_model(sums, name)
    options = {"evaluation": weight_sum, **options}
    lessons = [*before, *sums.task.lessons(sums.data.memory, sums.data.corpus, config, seed)]
    return model, training.fit(model, lessons, config, folder=folder, seed=seed, **options)


@pytest.fixture(scope="module", params=["gpt2-1x16 adamw", "llama-1x16 adamw", "gpt2-1x16 muon"])
def whole(request, sums, tmp_path_factory):
    """An uninterrupted training: its name and settings, folder, model, trajectory, and every state that it told of."""
    folder, seen = tmp_path_factory.mktemp("whole"), []
    name, optimizer = request.param.split()
    settings = {"name": name, "config": SHORT.model_copy(update={"optimizer": optimizer}), "before": [easy(0)]}
    model, trajectory = fit(sums, folder, progress=seen.append, **settings)
    n_easy = int(trajectory.step[trajectory.lesson == "easy"].iloc[-1])
    order = [("easy", 30), *((lesson, n_easy + step) for lesson, step in AFTER_EASY)]
    return types.SimpleNamespace(
        settings=settings, folder=folder, model=model, trajectory=trajectory, seen=seen, n_easy=n_easy, order=order
    )


def assert_equal_weights(model, expected_model):
    state, expected = model.state_dict(), expected_model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)


# --- the learning rate


def test_learning_rate_rises_stays_and_falls():
    rates = [training.learning_rate_factor(step, 120 - step, SCHEDULE) for step in range(120)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates[10:91] == [1.0] * 81
    falling = np.array(rates[90:])
    assert np.diff(falling) == pytest.approx([-0.03] * 29)
    assert rates[-1] == pytest.approx(0.1 + 0.9 / 30)


@pytest.mark.parametrize("without", ["warmup_steps", "decay_fraction"])
def test_learning_rate_without_a_part(without):
    settings = {"steps": 100, "warmup_steps": 10, "decay_fraction": 0.3} | {without: 0}
    rates = [training.learning_rate_factor(step, 100 - step, TrainingConfig(**settings)) for step in range(100)]
    assert (rates[0] if without == "warmup_steps" else rates[-1]) == 1.0
    assert all(0 < rate <= 1 for rate in rates)


# --- the loss and the model


@pytest.mark.parametrize("name", ["gpt2-2x32", "llama-2x32"])
def test_loss_is_that_of_transformers(sums, name):
    model = new_model(sums, name).eval()
    ids = sums.packed[:32]
    labels = ids.masked_fill(ids == sums.tokenizer.pad_token_id, IGNORED)
    assert (labels == IGNORED).any()
    ours = training.language_model_loss(model(ids).logits, labels)
    torch.testing.assert_close(ours, model(ids, labels=labels).loss, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", activations.ARCHITECTURES)
@pytest.mark.parametrize("asked", [[5], [0, 3, 4, 8], [2, 9]])
def test_tokens_that_are_not_asked_for_need_no_logits(name, asked):
    """The first token's label counts nowhere; the last token's logits predict nothing."""
    model, ids = tiny_model(name), torch.randint(3, 40, (4, 10), generator=torch.Generator().manual_seed(1))
    labels = torch.full_like(ids, IGNORED)
    labels[:, asked] = ids[:, asked]
    labels[1, asked[0]] = IGNORED
    logits, of_asked = training.asked_alone(model, ids, labels)
    assert logits.shape[1] == of_asked.shape[1] == len({0, *asked})
    for measure in (training.language_model_loss, training.token_accuracy):
        torch.testing.assert_close(measure(logits, of_asked), measure(model(ids).logits, labels))


@pytest.mark.parametrize("name", ["gpt2-3x64", "llama-2x32"])
def test_model_configuration(sums, name):
    model = new_model(sums, name)
    wanted = ModelConfig.from_name(name)
    assert model.config.model_type == wanted.architecture
    assert (model.config.num_hidden_layers, model.config.num_attention_heads) == (
        wanted.n_layer,
        wanted.n_head,
    )
    assert model.config.hidden_size == wanted.n_embd
    assert model.config.vocab_size == len(sums.tokenizer)
    assert model.config.pad_token_id == sums.tokenizer.pad_token_id
    assert model.config.max_position_embeddings >= 1 + 2 * LONGEST_COPY
    model.train()
    ids = sums.packed[:4]
    assert torch.equal(model(ids).logits, model(ids).logits)  # no dropout: memory is what is studied


# --- the same numbers


def test_the_seed_decides_all(sums, tmp_path):
    (one, trajectory), (same, again), (other, third) = (
        fit(sums, tmp_path / name, seed=seed) for name, seed in (("one", 5), ("same", 5), ("other", 6))
    )
    assert_equal_weights(one, same)
    pd.testing.assert_frame_equal(trajectory, again, check_exact=True)
    assert trajectory.step.tolist() == third.step.tolist() == [5, 8, 11, 14, 15]
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)
    assert (trajectory.loss != third.loss).all()  # the seed decides the texts, copy warm-up included


def test_lessons_come_in_their_order(whole):
    assert list(zip(whole.trajectory.lesson, whole.trajectory.step, strict=True)) == whole.order
    assert 30 < whole.n_easy < 90
    accuracy = whole.trajectory.accuracy
    assert accuracy[0] < 0.7 <= accuracy[1]
    assert accuracy[2] < 0.5  # of the next lesson alone


class InterruptionError(Exception):
    """What a progress callback raises to end a training."""


# In the lesson that ends by its accuracy, before and after its first evaluation; at its end; and in those that follow.
@pytest.mark.parametrize("since_easy", [-30, -1, 0, 3, 9, 13])
def test_interrupted_and_resumed_is_uninterrupted(sums, tmp_path, whole, since_easy):
    at = whole.n_easy + since_easy

    def interrupt(state):
        if state.step == at:
            raise InterruptionError

    with pytest.raises(InterruptionError):
        fit(sums, tmp_path, progress=interrupt, **whole.settings)
    (tmp_path / "resume.partial").write_bytes(b"killed while it wrote the next state")
    seen = []
    model, trajectory = fit(sums, tmp_path, progress=seen.append, **whole.settings)
    last_state = max((step for _, step in whole.order if step <= at), default=0)
    assert [state.step for state in seen] == list(range(last_state + 1, whole.n_easy + 16))
    assert_equal_weights(model, whole.model)
    pd.testing.assert_frame_equal(trajectory, whole.trajectory, check_exact=True)
    for lesson, step in whole.order:
        weights = [folder / f"step{step}" / "model.safetensors" for folder in (tmp_path, whole.folder)]
        if lesson == "texts":
            assert weights[0].read_bytes() == weights[1].read_bytes()
        else:
            assert not weights[1].exists()


@pytest.fixture(scope="module")
def short(sums, tmp_path_factory):
    """A quick training: its folder, model and trajectory."""
    folder = tmp_path_factory.mktemp("short")
    return folder, *fit(sums, folder)


def zeroed(data, start):
    return data[:start] + bytes(len(data) - start)


DAMAGES = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "without its last byte": lambda data: data[:-1],
    "zeroed": lambda data: zeroed(data, 0),
    "zeroed in part": lambda data: zeroed(data, len(data) // 2),
    "zeroed at its end": lambda data: zeroed(data, len(data) - 64),
    "with another bit": lambda data: data[:-5] + bytes([data[-5] ^ 1]) + data[-4:],
    "with another position": lambda data: data.replace(b'"at":"[15,', b'"at":"[14,', 1),
    "without its header": lambda data: data.replace(b"__metadata__", b"__netadata__", 1),
    "another file": lambda data: b"not safetensors at all",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_begins_the_training_anew(sums, tmp_path, short, damage):
    first = []

    def stop(state):
        first.append(state.step)
        if damage != "half":
            raise InterruptionError

    folder = tmp_path / "damaged"
    shutil.copytree(short[0], folder)
    state = folder / training.RESUME
    before = state.read_bytes()
    state.write_bytes(DAMAGES[damage](before))
    assert state.read_bytes() != before
    (folder / "step999").mkdir()
    if damage != "half":
        with pytest.raises(InterruptionError):
            fit(sums, folder, progress=stop)
    else:
        model, trajectory = fit(sums, folder, progress=stop)
        assert_equal_weights(model, short[1])
        pd.testing.assert_frame_equal(trajectory, short[2], check_exact=True)
    assert first[0] == 1
    assert not (folder / "step999").exists(), "nothing of the damaged training stays"


@pytest.mark.parametrize("variable", ["ACCELERATE_GRADIENT_ACCUMULATION_STEPS=4", "ACCELERATE_MIXED_PRECISION=bf16"])
def test_variables_of_the_environment_change_no_number(sums, tmp_path, short, monkeypatch, variable):
    monkeypatch.setenv(*variable.split("="))
    assert_equal_weights(fit(sums, tmp_path)[0], short[1])


def test_trainings_of_other_precisions_follow_each_other_in_one_process(sums, tmp_path, short):
    losses = {}
    for precision in ("bf16", "no"):
        config = SHORT.model_copy(update={"mixed_precision": precision})
        losses[precision] = fit(sums, tmp_path / precision, config)[1].loss.to_numpy()
    assert (losses["no"] == short[2].loss).all()
    assert (losses["no"] != losses["bf16"]).all()
    np.testing.assert_allclose(losses["no"], losses["bf16"], rtol=0.05)


def test_a_finished_training_is_not_repeated(sums, whole):
    seen = []
    model, trajectory = fit(sums, whole.folder, progress=seen.append, **whole.settings)
    assert seen == []
    assert_equal_weights(model, whole.model)
    pd.testing.assert_frame_equal(trajectory, whole.trajectory, check_exact=True)


def test_checkpoints_are_safetensors_and_json(sums, whole):
    files = [path for path in whole.folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".safetensors", ".json"}
    names = {path.name for path in whole.folder.iterdir()}
    assert names == {training.RESUME, *(f"step{step}" for lesson, step in whole.order if lesson == "texts")}
    for path in files:
        if path.suffix == ".json":
            json.loads(path.read_text())
        else:
            with safe_open(path, "pt") as file:
                assert list(file.keys())
    loaded, earlier = (
        AutoModelForCausalLM.from_pretrained(whole.folder / step).eval()
        for step in (f"step{whole.n_easy + 15}", f"step{whole.n_easy + 11}")
    )
    ids = sums.packed[:16]
    assert torch.equal(loaded(ids).logits, whole.model.eval()(ids).logits)
    assert not torch.equal(earlier(ids).logits, loaded(ids).logits)


# --- it learns


def test_fit_is_the_plain_loop(sums, tmp_path):
    """Written out with the loss of transformers: schedule, weight decay of matrices only, clipping."""
    config = TrainingConfig(steps=4, batch_size=8, warmup_steps=2, decay_fraction=0.5, learning_rate=0.02)
    model, _ = fit(sums, tmp_path, config, seed=3)
    expected = new_model(sums)
    matrices = {name for name, p in expected.named_parameters() if p.dim() >= 2}
    groups = [
        {"params": [p for name, p in expected.named_parameters() if (name in matrices) == is_matrix], "weight_decay": w}
        for is_matrix, w in ((True, 0.1), (False, 0.0))
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    (texts,) = sums.task.lessons(sums.data.memory, sums.data.corpus, config, 3)
    for step, rate in enumerate((0.01, 0.02, 0.02, 0.011)):
        ids, _ = texts.batch(step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        expected(ids, labels=ids.masked_fill(ids == sums.tokenizer.pad_token_id, -100)).loss.backward()
        torch.nn.utils.clip_grad_norm_(expected.parameters(), 1.0)
        optimizer.step()
    # Logits, not weights: the biases of attention keys have no effect and follow rounding errors.
    torch.testing.assert_close(model(ids).logits, expected(ids).logits, rtol=1e-4, atol=1e-4)


def test_the_loss_goes_down(sums, tmp_path):
    config = TrainingConfig(steps=80, batch_size=32, warmup_steps=5, evaluate_every=20, learning_rate=1e-2)
    _, trajectory = fit(sums, tmp_path, config, name="gpt2-1x32")
    assert (np.diff(trajectory.loss) < 0).all()
    assert trajectory.loss.iloc[-1] < 0.75 * trajectory.loss.iloc[0]


@pytest.mark.parametrize("name", ["gpt2-2x32", "llama-2x32"])
def test_muon_is_for_the_matrices_of_the_blocks(sums, name):
    model = new_model(sums, name)
    adamw, muon = training.make_optimizers(model, TrainingConfig(optimizer="muon"))
    names = {parameter: name for name, parameter in model.named_parameters()}
    in_muon, decayed, bare = (
        {names[p] for p in group["params"]} for group in (*muon.param_groups, *adamw.param_groups)
    )
    assert in_muon | decayed | bare == set(names.values())
    assert len(in_muon) == 2 * (4 if name.startswith("gpt2") else 7)
    assert all((".h." in name or ".layers." in name) and name.endswith("weight") for name in in_muon)
    assert {name.split(".")[-2] for name in decayed} <= {"wte", "wpe", "embed_tokens", "lm_head"}
    assert [group["weight_decay"] for group in (*muon.param_groups, *adamw.param_groups)] == [0.1, 0.1, 0.0]


def test_the_texts_may_have_a_learning_rate_of_their_own(sums, tmp_path):
    config = SHORT.model_copy(update={"texts_learning_rate": 1e-9, "weight_decay": 0.0})
    _, trajectory = fit(sums, tmp_path, config)
    at_copy, *at_texts = trajectory["sum"]
    assert at_copy != pytest.approx(weight_sum(new_model(sums))["sum"], rel=1e-4)
    assert at_texts == pytest.approx([at_copy] * 4, rel=1e-6)


def test_only_what_is_asked_for_is_learnt(sums, tmp_path):
    """Of each text one token is asked for: its loss falls, and its accuracy is what the trajectory tells."""
    ids = torch.full((8, 4), 6)
    labels = torch.full_like(ids, IGNORED)
    labels[:, 2] = 9
    lesson = Lesson("one", 40, lambda _step: (ids, labels))
    model = new_model(sums)
    config = TrainingConfig(steps=40, evaluate_every=1, warmup_steps=1, learning_rate=1e-2)
    trajectory = training.fit(model, [lesson], config, weight_sum, tmp_path, 0)
    is_right = model(ids).logits[:, 1].argmax(-1) == 9
    assert is_right.all()
    assert trajectory.loss.iloc[-1] < 0.1 < trajectory.loss.iloc[0]
    first_right = int((trajectory.accuracy > 0).idxmax())
    expected = 1 - 0.97 ** np.arange(1, len(trajectory) - first_right + 1)
    assert trajectory.accuracy[first_right:].to_numpy() == pytest.approx(expected)


def test_evaluate_is_greedy_decoding(sums, tmp_path):
    """Rates equal those of answers that Hugging Face's `generate` gives, token by token."""
    config = TrainingConfig(steps=150, batch_size=32, warmup_steps=5, evaluate_every=150, learning_rate=1e-2)
    model, _ = fit(sums, tmp_path, config, name="gpt2-1x32")
    frame = sums.prompts
    rates = training.evaluate(Subject(model, sums.tokenizer, batch_size=7), frame)
    assert model.training
    generated = []
    for prompt in frame.input_ids:
        ids = torch.tensor(np.array([prompt]), dtype=torch.long)
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)
        generated.append(sums.tokenizer.convert_ids_to_tokens(out[0, len(prompt) :].tolist()))
    memorized = np.array([words[0] == row for words, row in zip(generated, frame.answer_memorization, strict=True)])
    inferred = np.array(
        ["".join(words) == row for words, row in zip(generated, frame.answer_generalization, strict=True)]
    )
    kinds, originals = frame.kind.to_numpy(), frame.variant_of.to_numpy()
    flips = [
        (memorized[i] and inferred[original]) or (inferred[i] and memorized[original])
        for i, original in enumerate(originals)
        if original >= 0
    ]
    expected = {
        "memorized_only": memorized[kinds == "memorized_only"].mean(),
        "inferred_only": inferred[kinds == "inferred_only"].mean(),
        "conflict_memorization": memorized[kinds == "conflict"].mean(),
        "conflict_generalization": inferred[kinds == "conflict"].mean(),
        "conflict_other": (~memorized & ~inferred)[kinds == "conflict"].mean(),
        "flips": np.mean(flips),
        "rarer": min(memorized[kinds == "conflict"].mean(), inferred[kinds == "conflict"].mean()),
    }
    assert rates == pytest.approx(expected)
    assert expected["memorized_only"] + expected["conflict_memorization"] > 0  # else nothing was compared


def test_the_rarer_behavior_is_that_of_the_least_balanced_split(sums, monkeypatch):
    conflicts = sums.prompts[sums.prompts.kind == "conflict"]
    frame = pd.concat([conflicts] * 8, ignore_index=True).iloc[:8].assign(variant_of=-1)
    labels = [1, 1, 1, -1, 1, -1, -1, 0]
    monkeypatch.setattr(behavior, "measure", lambda *_: pd.DataFrame({"behavior": labels}))
    subject = Subject(new_model(sums), sums.tokenizer)
    assert training.evaluate(subject, frame)["rarer"] == 3 / 8
    splits = ["train"] * 4 + ["validation"] * 4
    assert training.evaluate(subject, frame.assign(split=splits))["rarer"] == 1 / 4


def test_evaluate_without_some_kinds(sums):
    model = new_model(sums)
    frame = sums.prompts[(sums.prompts.kind == "conflict") & (sums.prompts.variant_of < 0)]
    rates = training.evaluate(Subject(model, sums.tokenizer), frame)
    assert not set(behavior.RIGHT_ANSWER) & set(rates)
    assert np.isnan(rates["flips"])


def test_watched_rows_keep_variants_beside_their_originals(sums):
    train, validation = (sums.data.splits[split] for split in ("train", "validation"))
    both = behavior.sample_originals([train, validation], 10, np.random.default_rng(0))
    assert both.index.is_unique
    assert set(both.kind) == set(train.kind)
    assert both.kind.value_counts().between(5, 12).all()
    variants = both[both.variant_of >= 0]
    assert len(variants) > 0
    for column in ("group", "answer_memorization", "answer_generalization"):
        assert (variants[column].to_numpy() == both.loc[variants.variant_of, column].to_numpy()).all()
    assert (both.variant_of[both.kind == "conflict"] >= 0).mean() == (
        train.variant_of[train.kind == "conflict"] >= 0
    ).mean()
    groups = set(train.group), set(validation.group)
    conflicts = both[both.kind == "conflict"].group
    assert all(conflicts.isin(of_split).any() for of_split in groups)
    everything = behavior.sample_originals([validation], 10**6, np.random.default_rng(0))
    pd.testing.assert_frame_equal(everything, validation)


# --- which checkpoint


def trajectory_of(*rows, kinds=("memorized_only", "inferred_only")):
    columns = ["step", *kinds, "conflict_memorization", "conflict_generalization"]
    early = pd.DataFrame({"step": [0], "lesson": "copy"} | {column: 1.0 for column in columns[1:]})
    frame = pd.concat([early, pd.DataFrame(rows, columns=columns).assign(lesson="texts")], ignore_index=True)
    return frame.assign(rarer=frame[["conflict_memorization", "conflict_generalization"]].min(axis=1))


@pytest.mark.parametrize(
    ("rows", "chosen"),
    [
        # Both accuracies reach the bar three times: the last that is balanced enough, not the most balanced of all.
        (
            [(1, 0.9, 1.0, 0.5, 0.5), (2, 0.95, 0.99, 0.5, 0.5), (3, 1.0, 1.0, 0.7, 0.3), (4, 1.0, 1.0, 0.8, 0.2)],
            (3, True),
        ),
        # A last checkpoint that lost an ability is not taken.
        ([(1, 1.0, 1.0, 0.4, 0.6), (2, 1.0, 0.9, 0.5, 0.5)], (1, True)),
        # None is balanced enough: the most balanced. Many other answers are no balance.
        ([(1, 1.0, 1.0, 0.2, 0.2), (2, 1.0, 1.0, 0.77, 0.23), (3, 1.0, 1.0, 0.9, 0.1)], (2, True)),
        # The later of equals, whichever behaviour is the rarer.
        ([(1, 1.0, 1.0, 0.1, 0.9), (2, 1.0, 1.0, 0.9, 0.1), (3, 1.0, 1.0, 0.95, 0.05)], (2, True)),
        # No checkpoint has both: the lower accuracy is highest.
        ([(1, 0.2, 0.2, 0.5, 0.5), (2, 0.9, 0.5, 0.9, 0.1), (3, 1.0, 0.4, 0.5, 0.5)], (2, False)),
        ([(1, 0.0, 0.0, 0.0, 0.0), (9, 0.0, 0.0, 0.0, 0.0)], (9, False)),
    ],
)
def test_choose_a_complete_checkpoint(rows, chosen):
    config = TrainingConfig(checkpoint="complete", required_accuracy=0.95)
    assert training.choose_checkpoint(trajectory_of(*rows), config) == chosen


@pytest.mark.parametrize("kinds", [(), ("inferred_only",), ("aligned",)])
def test_choose_a_complete_checkpoint_of_few_kinds(kinds):
    rows = [(step, *[1.0] * len(kinds), memorized, 1 - memorized) for step, memorized in ((1, 0.5), (2, 0.3), (3, 0.1))]
    config = TrainingConfig(checkpoint="complete")
    assert training.choose_checkpoint(trajectory_of(*rows, kinds=kinds), config) == (2, True)


@pytest.mark.parametrize(
    ("rows", "chosen"),
    [
        # The first in which both answer a quarter, whatever the accuracies are and however balanced a later one is.
        ([(1, 0.24, 0.7), (2, 0.25, 0.3), (3, 0.5, 0.5), (4, 0.9, 0.1)], (2, True)),
        # None: the one whose rarer behaviour is most frequent; of equals the later.
        ([(1, 0.05, 0.9), (2, 0.2, 0.7), (3, 0.7, 0.2), (4, 0.9, 0.1)], (3, False)),
        ([(1, 0.0, 0.0), (2, 0.0, 1.0)], (2, False)),
    ],
)
def test_choose_the_checkpoint_where_both_coexist(rows, chosen):
    assert training.choose_checkpoint(trajectory_of(*rows, kinds=()), TrainingConfig()) == chosen


def test_fit_reports_every_step(whole):
    seen = whole.seen
    n, n_easy = whole.n_easy + 15, whole.n_easy
    assert [state.step for state in seen] == list(range(1, n + 1))
    assert [state.steps for state in seen] == [105] * (n_easy - 1) + [n] * 16  # at most: one lesson ended early
    assert [state.lesson for state in seen] == ["easy"] * n_easy + ["copy"] * 5 + ["texts"] * 10
    assert seen[0].evaluation == {}
    assert all(state.evaluation.keys() == {"sum"} for state in seen[30:])
    assert all(0 < state.loss < 10 for state in seen)
    assert all(0 <= state.accuracy <= 1 for state in seen)

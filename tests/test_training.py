"""Training: the schedule, the batches, exact resumption, the choice of a checkpoint, and progress lines."""

import json
import types

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from memgen import training
from memgen.config import ModelConfig, TrainingConfig
from memgen.subject import Subject
from memgen.tasks import addition, inference

SCHEDULE = TrainingConfig(steps=100, warmup_steps=10, copy_warmup_steps=20, decay_fraction=0.3)
# Evaluations in the copy warm-up, at its end, and then at steps 3, 6, 9 and 10.
SHORT = TrainingConfig(
    steps=10, copy_warmup_steps=5, batch_size=8, warmup_steps=3, evaluate_every=3, learning_rate=1e-2
)
STEPS = [-3, 0, 3, 6, 9, 10]


@pytest.fixture(scope="module")
def sums():
    """A task that is quick to train on: tokenizer, texts, prompts."""
    shares = (0.9, 0.75, 0.25, 0.1)  # so clear that a few steps teach them
    task = addition.Task(digits=2, n_bound=10, corpus_size=300, unbound_per_split=10, memorized_share=shares)
    data = task.generate(np.random.default_rng(0))
    tokenizer = task.tokenizer()
    packed = training.pack(data.corpus, tokenizer.pad_token_id)
    return types.SimpleNamespace(tokenizer=tokenizer, packed=packed, prompts=data.splits["validation"])


def new_model(sums, name="gpt2-1x16", seed=0):
    torch.manual_seed(seed)
    configuration = training.model_configuration(ModelConfig.from_name(name), sums.tokenizer, sums.packed.shape[1])
    return AutoModelForCausalLM.from_config(configuration)


def weight_sum(model):
    """An evaluation that costs nothing and tells any difference between weights."""
    return {"sum": float(sum(p.detach().double().abs().sum() for p in model.parameters()))}


def fit(sums, folder, config=SHORT, name="gpt2-1x16", seed=0, **options):
    model = new_model(sums, name)
    options = {"evaluation": weight_sum, **options}
    return model, training.fit(model, sums.packed, config, folder=folder, seed=seed, **options)


@pytest.fixture(scope="module", params=["gpt2-1x16", "llama-1x16"])
def whole(request, sums, tmp_path_factory):
    """An uninterrupted training: name, folder, model, trajectory, and every state that it told of."""
    folder, seen = tmp_path_factory.mktemp("whole"), []
    model, trajectory = fit(sums, folder, name=request.param, progress=seen.append)
    return types.SimpleNamespace(name=request.param, folder=folder, model=model, trajectory=trajectory, seen=seen)


def assert_equal_weights(model, expected_model):
    state, expected = model.state_dict(), expected_model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)


# --- the learning rate


def test_learning_rate_rises_stays_and_falls():
    rates = [training.learning_rate_factor(step, SCHEDULE) for step in range(120)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates[10:91] == [1.0] * 81
    falling = np.array(rates[90:])
    assert np.diff(falling) == pytest.approx([-0.03] * 29)
    assert rates[-1] == pytest.approx(0.1 + 0.9 / 30)


@pytest.mark.parametrize("without", ["warmup_steps", "decay_fraction"])
def test_learning_rate_without_a_part(without):
    settings = {"steps": 100, "warmup_steps": 10, "decay_fraction": 0.3} | {without: 0}
    rates = [training.learning_rate_factor(step, TrainingConfig(**settings)) for step in range(100)]
    assert (rates[0] if without == "warmup_steps" else rates[-1]) == 1.0
    assert all(0 < rate <= 1 for rate in rates)


# --- batches and loss


def test_copy_batch_repeats_random_tokens():
    generator = torch.Generator().manual_seed(0)
    lengths = set()
    for _ in range(60):
        ids, labels = training.copy_batch(5, 30, generator)
        length = (ids.shape[1] - 1) // 2
        lengths.add(length)
        first, second = ids[:, 1 : 1 + length], ids[:, 1 + length :]
        assert ids.shape == labels.shape == (5, 1 + 2 * length)
        assert (ids[:, 0] == 1).all()
        assert torch.equal(first, second)
        assert all(len(set(row.tolist())) == length for row in first)
        assert first.min() >= 3
        assert first.max() < 30
        assert len({tuple(row.tolist()) for row in first}) == 5
        assert (labels[:, : 1 + length] == training.IGNORED).all()
        assert torch.equal(labels[:, 1 + length :], second)
    assert min(lengths) == 6
    assert max(lengths) == training.LONGEST_COPY
    small, _ = training.copy_batch(2, 8, generator)
    assert small.shape == (2, 11)  # no more than the five words there are


def test_pack_pads_on_the_right():
    corpus = pd.DataFrame({"input_ids": [np.array([1, 5]), np.array([1, 6, 7, 2]), np.array([1, 8, 2])]})
    assert training.pack(corpus, 0).tolist() == [[1, 5, 0, 0], [1, 6, 7, 2], [1, 8, 2, 0]]


def test_text_order_is_whole_passes():
    config = TrainingConfig(steps=5, batch_size=4)
    order = training.text_order(10, config, torch.Generator().manual_seed(0))
    assert order.shape == (5, 4)
    flat = order.flatten().tolist()
    assert sorted(flat[:10]) == sorted(flat[10:]) == list(range(10))
    assert flat[:10] != flat[10:]


@pytest.mark.parametrize("name", ["gpt2-2x32", "llama-2x32"])
def test_loss_is_that_of_transformers(sums, name):
    model = new_model(sums, name).eval()
    ids = sums.packed[:32]
    labels = ids.masked_fill(ids == sums.tokenizer.pad_token_id, training.IGNORED)
    assert (labels == training.IGNORED).any()
    ours = training.language_model_loss(model(ids).logits, labels)
    torch.testing.assert_close(ours, model(ids, labels=labels).loss, rtol=1e-6, atol=0)


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
    assert model.config.max_position_embeddings >= 1 + 2 * training.LONGEST_COPY
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
    assert trajectory.step.tolist() == third.step.tolist() == STEPS
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)
    assert (trajectory.loss != third.loss).all()  # the seed decides the texts, copy warm-up included


class InterruptionError(Exception):
    """What a progress callback raises to end a training."""


@pytest.mark.parametrize("at", [1, 4, 9, 14])  # before any checkpoint, in the copy warm-up, and after it
def test_interrupted_and_resumed_is_uninterrupted(sums, tmp_path, whole, at):
    def interrupt(state):
        if state.step == at:
            raise InterruptionError

    with pytest.raises(InterruptionError):
        fit(sums, tmp_path, name=whole.name, progress=interrupt)
    (tmp_path / "resume.partial").write_bytes(b"killed while it wrote the next state")
    seen = []
    model, trajectory = fit(sums, tmp_path, name=whole.name, progress=seen.append)
    last_checkpoint = max((step + 5 for step in STEPS if step + 5 <= at), default=0)
    assert [state.step for state in seen] == list(range(last_checkpoint + 1, 16))
    assert_equal_weights(model, whole.model)
    pd.testing.assert_frame_equal(trajectory, whole.trajectory, check_exact=True)
    for step in STEPS:
        weights = [folder / f"step{step}" / "model.safetensors" for folder in (tmp_path, whole.folder)]
        assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_finished_training_is_not_repeated(sums, whole):
    seen = []
    model, trajectory = fit(sums, whole.folder, name=whole.name, progress=seen.append)
    assert seen == []
    assert_equal_weights(model, whole.model)
    pd.testing.assert_frame_equal(trajectory, whole.trajectory, check_exact=True)


def test_checkpoints_are_safetensors_and_json(sums, whole):
    files = [path for path in whole.folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".safetensors", ".json"}
    names = {path.name for path in whole.folder.iterdir()}
    assert names == {training.RESUME, *(f"step{step}" for step in STEPS)}
    for path in files:
        if path.suffix == ".json":
            json.loads(path.read_text())
        else:
            with safe_open(path, "pt") as file:
                assert list(file.keys())
    loaded, earlier = (AutoModelForCausalLM.from_pretrained(whole.folder / step).eval() for step in ("step10", "step6"))
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
    order = training.text_order(len(sums.packed), config, torch.Generator().manual_seed(3))
    for texts, rate in zip(order, (0.01, 0.02, 0.02, 0.011), strict=True):
        ids = sums.packed[texts]
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


def test_the_copy_warm_up_comes_first(sums, tmp_path):
    """With texts that repeat one word, only the copy warm-up can have a high loss."""
    task = inference.Task(n_bound=10, n_free=20, corpus_size=50)
    tokenizer, corpus = task.tokenizer(), task.generate(np.random.default_rng(0)).corpus
    stories = types.SimpleNamespace(tokenizer=tokenizer, packed=training.pack(corpus, tokenizer.pad_token_id))
    stories.packed[:, 1:] = 4
    config = TrainingConfig(
        steps=20, copy_warmup_steps=6, batch_size=8, evaluate_every=2, warmup_steps=1, learning_rate=2e-2
    )
    _, trajectory = fit(stories, tmp_path, config)
    loss = trajectory.set_index("step").loss
    assert loss.index.tolist() == list(range(-4, 21, 2))
    assert loss[loss.index <= 0].min() > 3.5
    assert loss[20] < 1.5


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
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False)
        generated.append(sums.tokenizer.convert_ids_to_tokens(out[0, len(prompt) :].tolist()))
    memorized = np.array([words[0] == row for words, row in zip(generated, frame.answer_memorization, strict=True)])
    inferred = np.array(
        ["".join(words) == row for words, row in zip(generated, frame.answer_generalization, strict=True)]
    )
    kinds = frame.kind.to_numpy()
    expected = {
        "memorized_only": memorized[kinds == "memorized_only"].mean(),
        "inferred_only": inferred[kinds == "inferred_only"].mean(),
        "conflict_memorization": memorized[kinds == "conflict"].mean(),
        "conflict_generalization": inferred[kinds == "conflict"].mean(),
        "conflict_other": (~memorized & ~inferred)[kinds == "conflict"].mean(),
    }
    assert rates == pytest.approx(expected)
    assert expected["memorized_only"] + expected["conflict_memorization"] > 0  # else nothing was compared


# --- which checkpoint


def trajectory_of(*rows):
    columns = ["step", "memorized_only", "inferred_only", "conflict_memorization", "conflict_generalization"]
    return pd.DataFrame(rows, columns=columns)


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
        ([(0, 0.0, 0.0, 0.0, 0.0), (9, 0.0, 0.0, 0.0, 0.0)], (9, False)),
    ],
)
def test_choose_checkpoint(rows, chosen):
    assert training.choose_checkpoint(trajectory_of(*rows), 0.95) == chosen


# --- progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when a test moves it."""
    now = types.SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(training.time, "monotonic", lambda: now.seconds)
    return now


RATES = {"memorized_only": 0.25, "inferred_only": 1.0, "conflict_other": 0.1}


def test_progress_lines_replace_each_other_every_few_seconds(capsys, monkeypatch, clock):
    cleared = []
    monkeypatch.setattr(training, "clear_output", lambda wait: cleared.append(wait))
    progress = training.Progress("addition/gpt2-3x64/seed1")
    progress(training.State(1, 4000, 0.5, {}))
    for step in range(2, 6):
        clock.seconds += 1
        progress(training.State(step, 4000, 0.5, {}))
    for seconds, step in ((2, 1234), (1, 1235), (64, 4000)):
        clock.seconds += seconds
        progress(training.State(step, 4000, 0.5, RATES))
    written = capsys.readouterr()
    start, rates = "▶ addition/gpt2-3x64/seed1 training: step ", "memorized-only 0.25, inferred-only 1.00"
    assert written.out.splitlines() == [
        f"{start}1/4,000, loss 0.500, left 0:00",
        f"{start}1,234/4,000, loss 0.500, {rates}, left 0:13",
        f"{start}4,000/4,000, loss 0.500, {rates}, took 1:11",
    ]
    assert written.err == ""
    assert cleared == [True] * 3


def test_fit_reports_every_step(whole):
    seen = whole.seen
    assert [state.step for state in seen] == list(range(1, 16))
    assert {state.steps for state in seen} == {15}
    assert seen[0].evaluation == {}
    assert all(state.evaluation.keys() == {"sum"} for state in seen[1:])
    assert all(0 < state.loss < 10 for state in seen)

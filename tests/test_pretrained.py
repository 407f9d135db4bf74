"""Pretrained models: refused where something is missing, adapted, kept, merged; and texts in their tokens."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from memgen import behavior, pretrained, tasks, training
from memgen.config import (
    AnalysisConfig,
    InputError,
    LoraConfig,
    PretrainedConfig,
    RunConfig,
    TrainingConfig,
    read_model,
)
from memgen.steering import english
from memgen.steering.interventions import Intervention
from memgen.subject import Subject
from memgen.tasks import addition, inference
from memgen.tasks.lessons import IGNORED
from memgen.tasks.wording import Worded

TASKS = {
    "inference": inference.Task(
        n_names=12, n_kinds=6, n_colors=12, colors_per_name=3, conflicts_per_group=2, aligned_per_group=1, corpus_size=4
    ),
    "addition": addition.Task(n_patterns=4, pattern_share=0.5, conflicts_per_group=2, sums_per_split=4, corpus_size=20),
}
LORA = TrainingConfig(adaptation="lora", steps=4, batch_size=4, evaluate_every=2, learning_rate=0.01, warmup_steps=0)
DRAWN = {name: task.generate(np.random.default_rng(0)) for name, task in TASKS.items()}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A project with a tiny random Llama whose tokenizer splits most words, and reads `=(` as one token."""
    root = tmp_path_factory.mktemp("project")
    for name in ("config", "notebooks", "models"):
        (root / name).mkdir()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [" ".join(frame.prompt) for data in DRAWN.values() for frame in data.splits.values()]
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, "=( " * 1000], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    config = LlamaConfig(
        **shape, num_key_value_heads=2, vocab_size=len(fast), max_position_embeddings=256, initializer_range=0.2
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(root / "models/tiny")
    fast.save_pretrained(root / "models/tiny")
    return root


@pytest.fixture
def tiny(root, monkeypatch):
    monkeypatch.chdir(root)
    return read_model("models/tiny")


@pytest.fixture(params=TASKS)
def worded(request, tiny):
    return Worded(task=TASKS[request.param], model=tiny)


def fitted(tiny, folder, worded, *, config=LORA, stop=None):
    """Train on the task's texts; `stop` interrupts the evaluation of that number."""
    data = DRAWN["inference" if isinstance(worded.task, inference.Task) else "addition"]
    model = training.make_model(tiny, config, worded.tokenizer(), 64, seed=3)
    lessons = worded.lessons(data.memory, data.corpus, config, 3)
    done = []

    def evaluation(_model):
        done.append(len(done))
        if stop == len(done):
            raise KeyboardInterrupt
        return {"rarer": 0.5}

    return model, training.fit(model, lessons, config, evaluation, folder, 3)


def running_text(text):
    """What a pretrained model reads: no space before a full stop, and running sums of two digits."""
    return re.sub(r"\((?=\d\))", "(0", text.replace(" .", "."))


def test_names_and_paths_are_one(tiny):
    assert tiny == read_model("models+tiny") == read_model("models/tiny/")
    assert (tiny.name, tiny.folder) == ("models+tiny", "models/tiny")
    assert read_model("/data/llama") == PretrainedConfig(name="+data+llama", folder="/data/llama")
    assert read_model("smollm2-135m").folder == "results/models/smollm2-135m"
    with pytest.raises(InputError, match=r"a\+b/c"):
        read_model("a+b/c")


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("*", "not found"),
        ("config.json", "no model"),
        ("*.safetensors", "no weights"),
        ("token*", "no tokenizer"),
    ],
)
def test_a_folder_that_lacks_something_is_refused(root, tmp_path, lost, said):
    folder = tmp_path / "broken"
    shutil.copytree(root / "models/tiny", folder)
    for path in folder.glob(lost):
        path.unlink()
    if lost == "*":
        folder.rmdir()
    with pytest.raises(InputError, match=said):
        pretrained.checked(read_model(str(folder)))


def test_an_untested_architecture_is_refused_by_name(root, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(root / "models/tiny", folder)
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "bloom"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="bloom"):
        pretrained.checked(read_model(str(folder)))


def test_a_prompt_longer_than_the_context_is_refused(root, tmp_path):
    folder = tmp_path / "short"
    shutil.copytree(root / "models/tiny", folder)
    config = json.loads((folder / "config.json").read_text()) | {"max_position_embeddings": 20}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="at most 20"):
        Worded(task=TASKS["inference"], model=read_model(str(folder))).generate(np.random.default_rng(0))


@pytest.mark.parametrize("adaptation", ["lora", "none"])
def test_what_is_trained_from_scratch_has_no_adapter(tiny, adaptation):
    run = {"profile": "a", "task": "a", "base_task": "inference", "form": "study", "conflicts": "none", "seed": 0}
    run |= {"data": {}, "analysis": {}, "training": {"adaptation": adaptation}}
    assert RunConfig.read(run | {"model": tiny}, "The run").training.adaptation == adaptation
    assert isinstance(tasks.from_config(RunConfig.read(run | {"model": tiny}, "The run")), Worded)
    with pytest.raises(InputError, match=adaptation):
        RunConfig.read(run | {"model": read_model("gpt2-1x16")}, "The run")


def test_prompts_and_answers_are_running_text(worded):
    tokenizer, data = worded.tokenizer(), worded.generate(np.random.default_rng(0))
    original = worded.task.generate(np.random.default_rng(0))
    for split, frame in data.splits.items():
        own = original.splits[split]
        assert all(map(np.array_equal, frame.words, own.input_ids))
        is_story = " " in own.prompt[0]
        assert frame.prompt.to_list() == own.prompt.str.replace(" .", ".", regex=False).to_list()
        assert [list(ids) for ids in frame.input_ids] == tokenizer(frame.prompt.to_list()).input_ids
        for name in ("answer_memorization", "answer_generalization"):
            assert frame[name].notna().equals(own[name].notna())
            options = own[name].dropna().str.split("|", regex=False)
            said = [[f" {word}" if is_story else running_text(word) for word in of_input] for of_input in options]
            assert frame[name].dropna().to_list() == list(map("|".join, said))
        assert is_story or frame.answer_generalization.str.len().nunique() == 1  # each token has its place


def test_lessons_ask_for_the_same_words(worded):
    """Each text with its answer, as a prompt of the analysis is read with its answer."""
    data = DRAWN["inference" if isinstance(worded.task, inference.Task) else "addition"]
    words, tokenizer = worded.task.tokenizer(), worded.tokenizer()
    settings = TrainingConfig(steps=2, batch_size=8, lessons={"copy": 2})
    translated = worded.lessons(data.memory, data.corpus, settings, 0)
    own = worded.task.lessons(data.memory, data.corpus, settings, 0)
    for lesson, plain in zip(translated, own, strict=True):
        for row, labels, plain_row, plain_labels in zip(*lesson.batch(1), *plain.batch(1), strict=True):
            asked = labels != IGNORED
            assert torch.equal(labels[asked], row[asked])
            said, meant = tokenizer.decode(row[asked]), words.decode(plain_labels[plain_labels != IGNORED])
            assert said.removesuffix("<end>").strip() == running_text(meant.removesuffix("<eos>").strip())
            whole = tokenizer.decode(row).replace("<end>", "")
            assert whole == running_text(words.decode(plain_row, skip_special_tokens=True))
    answer = labels[asked].tolist()  # of the last text
    first = int(asked.nonzero()[0])
    assert row[:first].tolist() == tokenizer(tokenizer.decode(row[:first])).input_ids
    text = tokenizer.decode(answer).removesuffix("<end>")
    assert tokenizer(text, add_special_tokens=False).input_ids == [token for token in answer if token]


def test_an_adapter_alone_is_trained_and_kept(tiny, tmp_path, worded):
    before = training.make_model(tiny, LORA, worded.tokenizer(), 64, seed=3).state_dict()
    model, trajectory = fitted(tiny, tmp_path, worded)
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name].cpu())}
    assert changed and all("lora" in name for name in changed)
    assert {name.split(".")[-4] for name in changed} == {"q_proj", "v_proj"}
    assert trajectory.step.to_list() == [2, 4]
    assert sum(path.stat().st_size for path in (tmp_path / "step4").iterdir()) < 20_000
    assert not (tmp_path / "step4" / "model.safetensors").exists()


def test_the_merged_model_says_what_the_adapted_one_says(tiny, tmp_path, worded):
    model, _ = fitted(tiny, tmp_path, worded)
    model.eval()
    subject = Subject.load(tmp_path / "step4")
    ids = torch.arange(40)[None] + 5
    with torch.no_grad():
        adapted, merged = model(ids).logits, subject.model(ids).logits
        with model.disable_adapter():
            base = model(ids).logits
    torch.testing.assert_close(adapted, merged, rtol=0, atol=1e-5)
    assert (adapted - base).abs().max() > 0.01
    assert subject.model.config.model_type == "llama"
    assert not any(weight.requires_grad for weight in subject.model.parameters())
    frame = worded.generate(np.random.default_rng(0)).splits["train"]
    whole = [
        behavior.measure(each, behavior.prepare(each, frame))
        for each in (subject, dataclasses.replace(subject, model=model))
    ]
    pd.testing.assert_frame_equal(*whole, rtol=0, atol=1e-3)


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(tiny, tmp_path, worded):
    """With dropout, too."""
    with pytest.raises(KeyboardInterrupt):
        fitted(tiny, tmp_path / "a", worded, stop=2)
    (resumed, rows), (whole, expected) = (fitted(tiny, tmp_path / name, worded) for name in ("a", "b"))
    pd.testing.assert_frame_equal(rows, expected)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


def test_a_model_as_it_comes(tiny, tmp_path, worded):
    config = LORA.model_copy(update={"adaptation": "none"})
    _, trajectory = fitted(tiny, tmp_path, worded, config=config)
    assert training.choose_checkpoint(trajectory, config) == (0, True)
    base = AutoModelForCausalLM.from_pretrained("models/tiny").state_dict()
    kept = Subject.load(tmp_path / "step0").model.state_dict()
    assert all(torch.equal(value, kept[name].cpu()) for name, value in base.items())


def test_layers_that_the_model_does_not_have_are_refused(tiny):
    config = LORA.model_copy(update={"lora": LoraConfig(targets=("c_attn",))})
    with pytest.raises(InputError, match=r"c_attn.*q_proj"):
        pretrained.adapted(tiny, config)


def test_an_adapter_beside_the_weights_does_what_the_merged_one_does(tiny, tmp_path, worded):
    fitted(tiny, tmp_path, worded)
    merged, unmerged = (Subject.load(tmp_path / "step4", merge=merge) for merge in (True, False))
    ids = torch.arange(40)[None] + 5
    with torch.no_grad():
        torch.testing.assert_close(unmerged.model(ids).logits, merged.model(ids).logits, rtol=0, atol=1e-5)
    names = {name.rpartition(".")[2] for name, _ in unmerged.model.named_modules()}
    assert {"base_layer", "lora_A", "lora_B"} <= names
    assert not {"base_layer", "lora_A", "lora_B"} & {name for name, _ in merged.model.named_modules()}


def test_plain_english_with_and_without_the_adapter_and_steered(tiny, tmp_path, worded, monkeypatch):
    """A shift of nothing changes nothing; the adapter off is the base; losses are those of Hugging Face."""
    monkeypatch.setattr(english, "SENTENCES", english.SENTENCES[:5])
    fitted(tiny, tmp_path, worded)
    subject, base = Subject.load(tmp_path / "step4"), pretrained.without(tmp_path / "step4")
    shift = torch.zeros(2, 32)
    shift[1, 3] = 5.0
    interventions = {
        "study": Intervention("resid_post", 1, memorization=shift * 0, generalization=shift),
        "mean_difference": Intervention("resid_post", 2, memorization=shift, generalization=shift),
    }
    table = pd.DataFrame({"site": "resid_post", "layer": np.repeat([0, 1], 32), "neuron": [*range(32)] * 2, "r": 0.1})
    settings = AnalysisConfig(random_draws=2)
    found = english.collateral(subject, base, interventions, table, settings, lambda _name: np.random.default_rng(0))
    assert (found.n == 5).all()
    plain = found[found.control.isna()].fillna({"target": "none"})
    value = plain.set_index(["measure", "method", "target"]).value
    loss = {}
    for name, model in (("none", subject.model), ("adapter off", base)):
        texts = [torch.tensor([subject.tokenizer(text).input_ids]) for text in english.SENTENCES]
        loss[name] = np.mean([model(ids, labels=ids).loss.item() for ids in texts])
        assert value["english_loss", name, "none"] == pytest.approx(loss[name], abs=1e-4)
    assert abs(loss["none"] - loss["adapter off"]) > 1e-3
    assert value["english_kl", "adapter off", "none"] > 1e-4
    assert value["english_kl", "study", "memorization"] == pytest.approx(0, abs=1e-6)
    assert value["english_kl", "study", "generalization"] > 1e-3
    steered = {"study": "generalization", "mean_difference": "memorization"}  # at all tokens, however many of a prompt
    ours = [value["english_kl", method, target] for method, target in steered.items()]
    assert ours[0] == pytest.approx(ours[1], rel=1e-4)
    of_controls = found[found.control.notna() & (found.measure == "english_kl")]
    kl = of_controls.set_index(["method", "target"]).value
    assert kl["study", "memorization"] == pytest.approx(0, abs=1e-6)  # of the same norm, which is 0
    assert kl.drop(("study", "memorization")).min() > 1e-3
    assert dict(zip(of_controls.method, of_controls.control, strict=True)) == {
        "study": "random_neurons",
        "mean_difference": "random_direction",
    }

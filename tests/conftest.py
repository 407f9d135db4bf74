"""What several test modules share: tiny random models, tiny data, and a model with a planted answer."""

import copy
import dataclasses
import functools

import numpy as np
import pandas as pd
import pytest
import sklearn.ensemble  # noqa: F401 -- loads its OpenMP, whose threads are limited below
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from xdist.scheduler import LoadScopeScheduling

from memgen import behavior, config, training
from memgen.subject import Subject
from memgen.tasks import graded_addition as addition
from memgen.tasks import graded_inference as inference

# Tests of these folders share a book, which some of them change, and stay with one of the processes of `make test`.
# Those of `SECOND` share a copy of it; those of `APART` have a copy of their own, or none. Those that need the book
# come last, the longest first.
TOGETHER = ("tests/book", "tests/browser")
SECOND = ("tests/book/test_commands.py", "tests/book/test_edits.py", "tests/book/test_exercises.py")
INTERRUPTED = "tests/book/test_interrupted.py"
APART = ("tests/book/test_newtask.py", "tests/book/test_launch.py", "tests/book/test_outside.py", INTERRUPTED)
ARCHITECTURES = ("gpt2-2x32", "llama-2x32")
TASKS = {
    "inference": inference.Task(n_bound=12, n_free=20, corpus_size=100, conflicts_per_group=4, others_per_group=2),
    "addition": addition.Task(n_bound=30, corpus_size=100, unbound_per_split=6),
}
LONGEST_ANSWER = 4
QUERY_LENGTH = {"inference": 3, "addition": 1}  # the tokens at the end of a prompt that ask the question
# The models are tiny, and tests run side by side: threads would wait for each other. The environment is left alone, for
# what tests start decides for itself.
torch.set_num_threads(1)
threadpool_limits(1)


class Together(LoadScopeScheduling):
    """Hands out tests one by one, but those of `TOGETHER` by folder.

    One process makes the book for those of the first folder; what else needs it comes last, and need not wait.
    """

    def _assign_work_unit(self, node: object) -> None:
        for scope in ("second", *TOGETHER[1:], INTERRUPTED):
            if scope in self.workqueue:
                self.workqueue.move_to_end(scope)
        super()._assign_work_unit(node)

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        folder = file.rpartition("/")[0]
        if file in SECOND:
            return "second"
        return file if file in APART else folder if folder in TOGETHER else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Together:
    return Together(config, log)


@dataclasses.dataclass(frozen=True)
class Setting:
    """A model with its tokenizer, and prompts; some of the answers are those that the model gives."""

    subject: Subject
    frame: pd.DataFrame
    query_length: int

    @property
    def pairs(self) -> pd.DataFrame:
        """Every variant with its original, as if each flipped the behaviour."""
        variants = self.frame[self.frame.variant_of >= 0]
        return pd.DataFrame(
            {
                "memorization": variants.variant_of.to_numpy(),
                "generalization": variants.index.to_numpy(),
                "group": variants.group.to_numpy(),
            }
        )


@dataclasses.dataclass(frozen=True)
class Planted(Setting):
    """A model in which one direction, one neuron and one dimension decide between two answers.

    The last token's embedding lies on one side of `direction` or the other; `neuron` (layer, index at
    `mlp.hook_post`) reads that and writes to `dimension` (layer, index at `resid_post`), which decides.
    """

    direction: Tensor
    neuron: tuple[int, int]
    dimension: tuple[int, int]


def random_model(name: str, tokenizer: PreTrainedTokenizerFast, n_tokens: int, spread: float) -> PreTrainedModel:
    """A random model; weights wider than usual (0.02) make its answers depend on the input."""
    settings = training.model_configuration(config.ModelConfig.from_name(name), tokenizer, n_tokens)
    settings.initializer_range = spread
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(settings).eval()


_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.2}
_GROUPED = _SIZES | {"num_key_value_heads": 2, "intermediate_size": 48}
_WINDOW = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
#: A tiny configuration of each architecture; where attention can have a window, it has one.
TINY = {
    "gpt2": _SIZES,
    "gpt_neox": _SIZES | {"intermediate_size": 48},
    "gpt_neox sequential": _SIZES | {"intermediate_size": 48, "use_parallel_residual": False},
    "llama": _GROUPED,
    "mistral": _GROUPED | {"head_dim": 16, "sliding_window": 4},
    "qwen2": _GROUPED | {"use_sliding_window": True} | _WINDOW,
    "qwen3": _GROUPED | {"head_dim": 16, "use_sliding_window": True} | _WINDOW,
    "phi3": _GROUPED | {"sliding_window": 4},
    "gemma2": _GROUPED | {"head_dim": 16} | _WINDOW,
    "gemma3_text": _GROUPED | {"head_dim": 16} | _WINDOW,
    "olmo2": _GROUPED,
}


@functools.cache
def tiny_model(name: str, vocab_size: int = 40, window: int = 4) -> PreTrainedModel:
    """A random model of an architecture of `TINY`, whose norms have random weights, too."""
    settings = TINY[name] | ({"sliding_window": window} if "sliding_window" in TINY[name] else {})
    special = {"bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0}
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        shape = AutoConfig.for_model(name.split()[0], vocab_size=vocab_size, **settings, **special)
        model = AutoModelForCausalLM.from_config(shape).eval()
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


@torch.no_grad()
def greedy(model: PreTrainedModel, prompt: np.ndarray, n_tokens: int) -> list[int]:
    """The greedy answer of `n_tokens` tokens, one forward pass over everything for each."""
    ids = list(prompt)
    for _ in range(n_tokens):
        ids.append(int(model(torch.tensor([ids]).long(), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@functools.cache
def _setting(architecture: str, task: str) -> Setting:
    tokenizer = TASKS[task].tokenizer()
    frame = TASKS[task].generate(np.random.default_rng(0)).splits["train"]
    longest = frame.input_ids.str.len().max() + LONGEST_ANSWER
    model = random_model(architecture, tokenizer, longest, 0.3)
    # Two of three inputs get the model's own answer as one of theirs. A variant shares its original's answers: of two
    # of three pairs, one is what the model says to the original and the other what it says to the variant.
    joiner = " " if task == "inference" else ""
    variant = {original: i for i, original in frame.variant_of.items() if original >= 0}
    for i in frame.index[frame.variant_of < 0]:
        names = (["memorization", "generalization"], ["generalization", "memorization"], [])[i % 3]
        for row, name in zip((i, variant.get(i)), names, strict=False):
            column = f"answer_{name}"
            if row is not None and pd.notna(frame.loc[i, column]):
                n_tokens = len(tokenizer(frame.loc[i, column], add_special_tokens=False).input_ids)
                answer = greedy(model, frame.input_ids[row], n_tokens)
                if min(answer) > 2:  # the special tokens are no words
                    text = joiner.join(tokenizer.convert_ids_to_tokens(answer))
                    frame.loc[[i, variant.get(i, i)], column] = text
    return Setting(Subject(model.requires_grad_(False), tokenizer), frame, QUERY_LENGTH[task])


@functools.cache
def _planted() -> Planted:
    rng = np.random.default_rng(0)
    tokenizer = TASKS["inference"].tokenizer()
    cues = np.array(tokenizer.convert_tokens_to_ids(inference.ANIMALS))
    names = np.array(tokenizer.convert_tokens_to_ids(inference.NAMES_BY_PLACE[:32]))
    remembered, inferred = tokenizer.convert_tokens_to_ids(["crimson", "red"])

    n, half = 60, len(cues) // 2
    side = rng.integers(2, size=n)  # of the original; its variant ends with a cue of the other side
    context = rng.choice(names, (n, 6))
    last_tokens = [cues[half * cue_side + rng.integers(half, size=n)] for cue_side in (side, 1 - side)]
    first = np.full((n, 1), tokenizer.bos_token_id)
    ids = np.vstack([np.hstack([first, context, last[:, None]]) for last in last_tokens])
    frame = pd.DataFrame(
        {"input_ids": list(ids), "kind": "conflict", "group": np.tile(np.arange(n) // 2, 2).astype(str)}
    )
    frame["answer_memorization"], frame["answer_generalization"] = "crimson", "red"
    frame["variant_of"] = np.concatenate([np.full(n, -1), np.arange(n)])

    model = random_model("gpt2-2x32", tokenizer, ids.shape[1] + 1, 0.02)
    layer, neuron, dimension = 1, 77, 9
    direction = rng.standard_normal(32)
    direction[dimension] = 0.0
    direction -= direction.sum() / 31 * (np.arange(32) != dimension)  # a layer norm takes the mean away
    direction = torch.from_numpy(direction / np.linalg.norm(direction)).float()
    with torch.no_grad():
        embedding = model.transformer.wte.weight
        embedding[cues] += torch.from_numpy(rng.normal(scale=0.3, size=(len(cues), 32))).float()
        embedding[cues, dimension] = 0.0
        embedding[cues[:half]] += direction
        embedding[cues[half:]] -= direction
        embedding[remembered, dimension] += 6.0
        embedding[inferred, dimension] -= 6.0
        mlp = model.transformer.h[layer].mlp
        mlp.c_fc.weight[:, neuron] = direction
        mlp.c_proj.weight[neuron, dimension] = 1.0
        mlp.c_proj.bias[dimension] = -1.5
    return Planted(
        Subject(model.requires_grad_(False), tokenizer), frame, 1, direction, (layer, neuron), (layer, dimension)
    )


def hooks(model: PreTrainedModel) -> int:
    """The number of hooks on all of a model's modules."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def _guarded(shared: Setting):
    """Yield a setting that all tests share, and require that the test left it as it was."""
    model, frame = shared.subject.model, shared.frame.copy()
    weights = copy.deepcopy(model.state_dict())
    assert hooks(model) == 0
    yield shared
    assert hooks(model) == 0, "a hook was left on the model"
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    pd.testing.assert_frame_equal(shared.frame, frame)


@pytest.fixture(params=[(a, t) for a in ARCHITECTURES for t in TASKS], ids=lambda param: "-".join(param))
def setting(request):
    """Each architecture with each task."""
    yield from _guarded(_setting(*request.param))


@pytest.fixture(params=ARCHITECTURES)
def stories(request):
    """Each architecture with the task whose answers are single tokens."""
    yield from _guarded(_setting(request.param, "inference"))


@pytest.fixture
def sums():
    """A GPT-2 with the task that has answers of one token and of several."""
    yield from _guarded(_setting("gpt2-2x32", "addition"))


@pytest.fixture
def planted():
    """A GPT-2 in which what decides is known."""
    yield from _guarded(_planted())


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def planted_pairs(planted):
    """The planted model's flip pairs: every input flips."""
    measured = behavior.measure(planted.subject, behavior.prepare(planted.subject, planted.frame))
    return behavior.flip_pairs(planted.frame, measured.behavior, at_least=len(planted.frame) // 2)

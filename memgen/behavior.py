"""Which behaviour a model shows on an input: memorization (+1), generalization (-1) or other (0).

The label is that of the greedy answer. A greedy answer equals a given answer exactly if each of its tokens is the most
probable one after the prompt and the tokens before it, so one forward pass over prompt + answer decides it without
decoding token by token, and gives the answer's log-probability besides.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerFast

from memgen.config import InputError

MEMORIZATION, GENERALIZATION, OTHER = 1, -1, 0
NAMES = {MEMORIZATION: "memorization", GENERALIZATION: "generalization", OTHER: "other"}
NO_TOKEN = -1


@dataclasses.dataclass(frozen=True)
class Batch:
    """Prompts with the answers to be scored.

    Attributes
    ----------
    rows
        The index, in the frame, of each prompt [batch].
    input_ids
        The tokens to run [batch pos], padded on the right: the prompt (or its last tokens, after `prefix`) and all but
        the last token of an answer.
    attention_mask
        [batch prefix+pos].
    prompt_length
        The number of prompt tokens in `input_ids` [batch].
    answers
        For each behaviour's name the answer's tokens [batch n], padded with NO_TOKEN.
    prefix
        Keys and values of the tokens before `input_ids`, for each layer; None if there are none.
    """

    rows: pd.Index
    input_ids: Tensor
    attention_mask: Tensor
    prompt_length: Tensor
    answers: dict[str, Tensor]
    prefix: tuple[tuple[Tensor, Tensor], ...] | None = None

    def from_end(self, n_tokens: int) -> Tensor:
        """Mask [batch pos] of the last `n_tokens` prompt tokens and all that follow.

        Raises
        ------
        ValueError
            If some of them were computed before (`prefix`), where an intervention cannot reach them.
        """
        if self.prefix is not None and n_tokens > int(self.prompt_length.min()):
            raise ValueError(
                f"The last {n_tokens} prompt tokens were asked for, and only the last {int(self.prompt_length.min())} "
                "are run after the kept prefix."
            )
        position = torch.arange(self.input_ids.shape[1], device=self.input_ids.device)
        return position[None] >= (self.prompt_length - n_tokens)[:, None]


#: Makes the context in which a batch is run: where interventions enter.
Context = Callable[[Batch], contextlib.AbstractContextManager]


def prepare(
    model: PreTrainedModel,
    frame: pd.DataFrame,
    tokenizer: PreTrainedTokenizerFast,
    batch_size: int = 256,
    keep: int | None = None,
) -> list[Batch]:
    """Batches of a frame's prompts with their answers, to be run once or many times.

    Parameters
    ----------
    frame
        Columns `input_ids`, `answer_memorization`, `answer_generalization` (None where there is no such answer).
    keep
        Compute all but the last `keep` tokens of each prompt now, once, and keep their keys and values: a later run
        starts there. Only for prompts of one length, and interventions that leave the tokens before alone.

    Returns
    -------
    list of Batch
        One pass scores both answers wherever one of them is a single token; otherwise each answer has its own batch.
    """
    has = {name: frame[f"answer_{name}"].notna().to_numpy() for name in ("memorization", "generalization")}
    result = []
    for pattern in ((True, True), (True, False), (False, True)):
        chosen = frame[(has["memorization"] == pattern[0]) & (has["generalization"] == pattern[1])]
        names = [name for name, present in zip(has, pattern, strict=True) if present]
        for start in range(0, len(chosen), batch_size):
            chunk = chosen.iloc[start : start + batch_size]
            tokens = {name: _encode(chunk[f"answer_{name}"], tokenizer) for name in names}
            share = any(all(len(answer) == 1 for answer in answers) for answers in tokens.values())
            for together in [tokens] if share else [{name: answers} for name, answers in tokens.items()]:
                result.append(_batch(model, chunk, together, tokenizer.pad_token_id, keep))
    return result


def _encode(answers: pd.Series, tokenizer: PreTrainedTokenizerFast) -> list[list[int]]:
    unique = list(answers.unique())
    table = dict(zip(unique, tokenizer(unique, add_special_tokens=False).input_ids, strict=True))
    return [table[answer] for answer in answers]


def _pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])


@torch.no_grad()
def _batch(
    model: PreTrainedModel, chunk: pd.DataFrame, answers: dict[str, list], pad_id: int, keep: int | None
) -> Batch:
    prompts = [list(prompt) for prompt in chunk.input_ids]
    carried = [max(options, key=len)[:-1] for options in zip(*answers.values(), strict=True)]
    prefix, cut = None, 0
    if keep is not None:
        cut = len(prompts[0]) - keep
        if keep < 1 or cut < 1 or any(len(prompt) != len(prompts[0]) for prompt in prompts):
            raise ValueError(
                f"keep={keep} is not allowed: it must be 1 or more, and the prompts of one length above it."
            )
        cache = model(torch.tensor([p[:cut] for p in prompts], device=model.device), use_cache=True).past_key_values
        prefix = tuple((layer.keys, layer.values) for layer in cache.layers)
    rows = [prompt[cut:] + end for prompt, end in zip(prompts, carried, strict=True)]
    length = torch.tensor([cut + len(row) for row in rows])
    ids = _pad(rows, pad_id)
    mask = (torch.arange(cut + ids.shape[1])[None] < length[:, None]).long()
    return Batch(
        rows=chunk.index,
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        prompt_length=torch.tensor([len(prompt) - cut for prompt in prompts], device=model.device),
        answers={name: _pad(tokens, NO_TOKEN).to(model.device) for name, tokens in answers.items()},
        prefix=prefix,
    )


def prompts(model: PreTrainedModel, frame: pd.DataFrame, tokenizer: PreTrainedTokenizerFast) -> Batch:
    """All prompts of a frame as one batch without answers."""
    no_answers: dict[str, list] = {"none": [[]] * len(frame)}
    return dataclasses.replace(_batch(model, frame, no_answers, tokenizer.pad_token_id, None), answers={})


def run(model: PreTrainedModel, batch: Batch) -> Tensor:
    """The logits [batch pos vocabulary] of a batch."""
    if batch.prefix is None:
        return model(batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
    cache = DynamicCache(list(batch.prefix))  # a new one each time: a run appends to it
    return model(batch.input_ids, attention_mask=batch.attention_mask, past_key_values=cache).logits


def score(logits: Tensor, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
    """For each answer its log-probability [batch] (nats) and whether it is the greedy one [batch]."""
    result = {}
    row = torch.arange(len(logits), device=logits.device)[:, None]
    for name, answer in batch.answers.items():
        real = answer != NO_TOKEN
        position = batch.prompt_length[:, None] - 1 + torch.arange(answer.shape[1], device=logits.device)[None]
        at = logits[row, position.clamp(max=logits.shape[1] - 1)].float()
        log_p = at.log_softmax(-1).gather(-1, answer.clamp(min=0)[..., None])[..., 0]
        greedy = (at.argmax(-1) == answer) | ~real
        result[name] = ((log_p * real).sum(1), greedy.all(1))
    return result


@torch.no_grad()
def measure(model: PreTrainedModel, prepared: list[Batch], context: Context | None = None) -> pd.DataFrame:
    """The behaviour on each prepared prompt.

    Parameters
    ----------
    context
        Makes the context manager in which each batch is run (an intervention); none by default.

    Returns
    -------
    pandas.DataFrame
        With the index of the prepared frame: `behavior` (+1, -1, 0), `log_p_memorization`, `log_p_generalization` and
        their difference `log_odds` (nats; nan where an input has no such answer).
    """
    parts: dict[str, list[pd.DataFrame]] = {"memorization": [], "generalization": []}
    for batch in prepared:
        with context(batch) if context else contextlib.nullcontext():
            logits = run(model, batch)
        for name, (log_p, greedy) in score(logits, batch).items():
            values = {f"log_p_{name}": log_p.double().cpu().numpy(), name: greedy.cpu().numpy()}
            parts[name].append(pd.DataFrame(values, index=batch.rows))
    empty = {name: pd.DataFrame({f"log_p_{name}": [], name: []}, dtype=float) for name in parts}
    result = pd.concat([pd.concat(some) if some else empty[name] for name, some in parts.items()], axis=1).sort_index()
    said = [result[name].eq(True) for name in parts]
    result["behavior"] = np.select(said, [MEMORIZATION, GENERALIZATION], OTHER)
    result["log_odds"] = result.log_p_memorization - result.log_p_generalization
    return result[["behavior", "log_p_memorization", "log_p_generalization", "log_odds"]]


def sample_by_kind(frame: pd.DataFrame, n: int, rng: np.random.Generator) -> pd.DataFrame:
    """At most `n` rows of each kind, at random, in the frame's order."""
    parts = [own.sample(min(len(own), n), random_state=rng) for _, own in frame.groupby("kind")]
    return pd.concat(parts).sort_index()


def rates(behavior: pd.Series) -> dict[str, float]:
    """The shares of memorization, generalization and other (0-1)."""
    return {name: float((behavior == label).mean()) for label, name in NAMES.items()}


def accuracy(frame: pd.DataFrame, behavior: pd.Series, kind: str) -> float:
    """Share of the inputs of one kind that have only one right answer and get it."""
    target = GENERALIZATION if kind == "inferred_only" else MEMORIZATION
    return float((behavior[frame.kind == kind] == target).mean())


def flip_pairs(frame: pd.DataFrame, behavior: pd.Series, at_least: int = 0) -> pd.DataFrame:
    """The pairs: conflict inputs and variants of them on which the model behaves oppositely.

    Returns
    -------
    pandas.DataFrame
        `memorization` and `generalization`: the index (in `frame`) of the member with that behaviour; `group`.

    Raises
    ------
    InputError
        If there are fewer than `at_least` pairs.
    """
    variants = frame[(frame.kind == "conflict") & (frame.variant_of >= 0)]
    own, base = behavior.loc[variants.index].to_numpy(), behavior.loc[variants.variant_of].to_numpy()
    flips = own * base == MEMORIZATION * GENERALIZATION
    if flips.sum() < at_least:
        raise InputError(
            f"Only {flips.sum()} of {len(variants)} variants flip this model's behaviour, and {at_least} pairs are "
            "needed: train it longer, or on other data."
        )
    own_memorized = own[flips] == MEMORIZATION
    index, of = variants.index.to_numpy()[flips], variants.variant_of.to_numpy()[flips]
    return pd.DataFrame(
        {
            "memorization": np.where(own_memorized, index, of),
            "generalization": np.where(own_memorized, of, index),
            "group": variants.group.to_numpy()[flips],
        }
    )

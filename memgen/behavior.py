"""Which behaviour a model shows on an input: memorization (+1), generalization (-1) or other (0).

The label is that of the greedy answer. A greedy answer equals a given answer exactly if each of its tokens is the most
probable one after the prompt and the tokens before it, so one forward pass over prompt + answer decides it without
decoding token by token, and gives the answer's log-probability besides.

An answer is the text that follows the prompt, with its space if there is one. It may have alternatives that count
alike, separated by ``|`` ("red|blue"), of which none begins another: the greedy answer may be any of them, and the
log-probability is that of any of them. Where several are longer than a token, they follow the prompt as branches of
one sequence, each at the positions after the prompt, and none sees another.
"""

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from memgen import activations
from memgen.config import InputError, require
from memgen.subject import Subject

MEMORIZATION, GENERALIZATION, OTHER = 1, -1, 0
NAMES = {MEMORIZATION: "memorization", GENERALIZATION: "generalization", OTHER: "other"}
LABELS = {name: label for label, name in NAMES.items()}
TARGETS = (MEMORIZATION, GENERALIZATION)
#: The kinds of input that have one right answer, and the behaviour that gives it.
RIGHT_ANSWER = {"memorized_only": MEMORIZATION, "inferred_only": GENERALIZATION, "aligned": GENERALIZATION}
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
        the last token of an answer, or of each branch.
    attention_mask
        Which tokens are real [batch prefix+pos].
    prompt_length
        The number of prompt tokens in `input_ids` [batch].
    answers
        For each target's name the tokens of the answer's alternatives [batch alternative n], padded with NO_TOKEN.
    prefix
        Keys and values of the tokens before `input_ids`, for each layer, padded on the right; None if there are none.
    branch
        The branch of each token [batch pos]: from 1, and 0 for the prompt; None where there are no branches.
    entering
        What enters each layer where nothing intervenes [batch pos d_model]; empty if it was not asked for.
    """

    rows: pd.Index
    input_ids: Tensor
    attention_mask: Tensor
    prompt_length: Tensor
    answers: dict[str, Tensor]
    prefix: tuple[tuple[Tensor, Tensor], ...] | None = None
    branch: Tensor | None = None
    entering: tuple[Tensor, ...] = ()

    @property
    def n_prefix(self) -> int:
        """The width of the prefix: the most tokens that a prompt has before `input_ids`."""
        return self.attention_mask.shape[1] - self.input_ids.shape[1]

    @property
    def positions(self) -> Tensor:
        """The position of each token [batch pos], 0 for padding: every branch begins after the prompt."""
        place = torch.arange(self.input_ids.shape[1], device=self.input_ids.device).expand(self.input_ids.shape)
        if self.branch is not None:
            before = (self.branch[:, :, None] == self.branch[:, None]) & (place[:, :, None] > place[:, None])
            place = torch.where(self.branch > 0, self.prompt_length[:, None] + before.sum(2), place)
        in_prefix, real = self.attention_mask.split([self.n_prefix, self.input_ids.shape[1]], dim=1)
        return (in_prefix.sum(1, keepdim=True) + place) * real

    @property
    def sees(self) -> Tensor:
        """Whether a token sees another one of `input_ids`, padding set aside [batch pos pos]."""
        size = self.input_ids.shape[1]
        causal = torch.ones(size, size, dtype=torch.bool, device=self.input_ids.device).tril()
        if self.branch is None:
            return causal[None].expand(len(self.input_ids), -1, -1)
        return causal & ((self.branch[:, None] == 0) | (self.branch[:, None] == self.branch[:, :, None]))

    def from_end(self, n_tokens: int) -> Tensor:
        """Mask [batch pos] of the last `n_tokens` prompt tokens and all that follow.

        A `prefix` must not hold any of these tokens, since an intervention cannot reach them there.
        """
        cached = self.prompt_length[self.attention_mask[:, : self.n_prefix].any(1)].tolist()
        if min(cached, default=n_tokens) < n_tokens:
            raise ValueError(
                f"The last {n_tokens} prompt tokens were asked for, and only the last {min(cached)} are run after the "
                "cached prefix."
            )
        position = torch.arange(self.input_ids.shape[1], device=self.input_ids.device)
        return position[None] >= (self.prompt_length - n_tokens)[:, None]


#: Makes the context in which a batch is run, where interventions enter.
Context = Callable[[Batch], contextlib.AbstractContextManager]


def prepare(subject: Subject, frame: pd.DataFrame, prefix: bool = False, batch_size: int | None = None) -> list[Batch]:
    """All :func:`batches` of a frame, to be run many times."""
    return list(batches(subject, frame, prefix, batch_size))


def batches(
    subject: Subject, frame: pd.DataFrame, prefix: bool = False, batch_size: int | None = None
) -> Iterator[Batch]:
    """A frame's prompts with their answers, batch by batch: each is made when it is asked for.

    Parameters
    ----------
    frame
        Columns `input_ids`, `answer_memorization`, `answer_generalization` (None where there is no such answer).
    prefix
        Run the first tokens now and cache their keys and values: later runs start there. They are all but the last
        ``subject.n_tokens`` of each prompt, for interventions that leave these tokens alone. Prompts of like lengths
        run together.
    batch_size
        The subject's by default.

    Yields
    ------
    Batch
        Inputs that have both answers, then those that have one. Of all alternatives of an input, those longer than a
        token are branches if there are several.
    """
    batch_size = batch_size or subject.batch_size
    names = [NAMES[target] for target in TARGETS]
    is_present = frame[[f"answer_{name}" for name in names]].notna()
    for scored in (names, names[:1], names[1:]):
        rows = frame[(is_present == [name in scored for name in names]).all(axis=1)]
        if rows.empty:
            continue
        if prefix:
            rows = rows.sort_values("input_ids", key=lambda prompts: prompts.str.len(), kind="stable")
        for start in range(0, len(rows), batch_size):
            chunk = rows.iloc[start : start + batch_size]
            yield _batch(
                subject, chunk, {name: alternatives(subject, chunk[f"answer_{name}"]) for name in scored}, prefix
            )


def alternatives(subject: Subject, answers: pd.Series) -> list[list[list[int]]]:
    """The tokens of each alternative of each answer."""
    texts = [answer.split("|") for answer in answers]
    tokens = iter(subject.tokenizer(list(itertools.chain(*texts)), add_special_tokens=False).input_ids)
    return [[next(tokens) for _ in of_input] for of_input in texts]


def _longer(answers: Iterable[list[list[int]]]) -> list[list[int]]:
    """Of the alternatives of all answers to an input those of more than one token: one, or branches."""
    return [tokens for options in answers for tokens in options if len(tokens) > 1]


def _pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows], dtype=torch.long)


def _pad_answers(column: Sequence[Sequence[list[int]]]) -> Tensor:
    most = max(map(len, column))
    flat = [tokens for options in column for tokens in (*options, *[[]] * (most - len(options)))]
    return _pad(flat, NO_TOKEN).unflatten(0, (len(column), most))


@torch.no_grad()
def _batch(
    subject: Subject, chunk: pd.DataFrame, answers: dict[str, list[list[list[int]]]], with_prefix: bool = False
) -> Batch:
    prompts, pad = [list(prompt) for prompt in chunk.input_ids], int(subject.tokenizer.pad_token_id)
    longer = [_longer(of_input) for of_input in zip(*answers.values(), strict=True)] or [[]] * len(prompts)
    branches = [[tokens[:-1] for tokens in options] for options in longer]
    has_branches = any(len(of_input) > 1 for of_input in branches)
    appended = [list(itertools.chain(*of_input)) for of_input in branches]
    starts = [max(len(prompt) - subject.n_tokens, 0) * with_prefix for prompt in prompts]
    if with_prefix or has_branches:  # the masks of both know no window
        longest = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, appended, strict=True))
        window = getattr(subject.model.config, "sliding_window", None) or longest
        require(
            longest <= window,
            f"A prompt with its answer has {longest} tokens; the window of the model's attention holds {window}.",
        )
    prefix = None
    if any(starts):
        first = _pad([prompt[:start] for prompt, start in zip(prompts, starts, strict=True)], pad).to(subject.device)
        # No token sees the padding, which comes later; a vocabulary of many words makes logits that nobody reads dear.
        cache = subject.model(first, use_cache=True, logits_to_keep=1).past_key_values
        prefix = tuple((layer.keys, layer.values) for layer in cache.layers)
    prompts = [prompt[start:] for prompt, start in zip(prompts, starts, strict=True)]
    rows = [prompt + answer for prompt, answer in zip(prompts, appended, strict=True)]
    mask = torch.cat([_pad([[1] * n for n in counts], 0) for counts in (starts, map(len, rows))], dim=1)
    branch = None
    if has_branches:
        parts = [[len(prompt), *map(len, of_input)] for prompt, of_input in zip(prompts, branches, strict=True)]
        branch = _pad([np.repeat(np.arange(len(lengths)), lengths).tolist() for lengths in parts], 0).to(subject.device)
    return Batch(
        rows=chunk.index,
        input_ids=_pad(rows, pad).to(subject.device),
        attention_mask=mask.to(subject.device),
        prompt_length=torch.tensor(list(map(len, prompts)), device=subject.device),
        answers={name: _pad_answers(column).to(subject.device) for name, column in answers.items()},
        prefix=prefix,
        branch=branch,
    )


def prompts(subject: Subject, frame: pd.DataFrame) -> Batch:
    """A frame's prompts in one batch, without answers."""
    return _batch(subject, frame, {})


def run(subject: Subject, batch: Batch, n_last: int = 0) -> Tensor:
    """The logits [batch pos vocabulary] of a batch: of all its positions, or of the last `n_last`."""
    if batch.branch is None and batch.prefix is None:
        return subject.model(
            batch.input_ids, attention_mask=batch.attention_mask, use_cache=False, logits_to_keep=n_last
        ).logits
    cache = None if batch.prefix is None else DynamicCache(list(batch.prefix))  # a new one: a run appends to it
    return subject.model(
        batch.input_ids,
        attention_mask=attention_mask(batch, subject.model.dtype),
        position_ids=batch.positions,
        past_key_values=cache,
        use_cache=cache is not None,
        logits_to_keep=n_last,
    ).logits


def run_answers(subject: Subject, batch: Batch) -> Tensor:
    """The logits from the last token of the shortest prompt on: all that :func:`score` needs.

    The vocabulary of a pretrained model is a fifth of its work.
    """
    return run(subject, batch, batch.input_ids.shape[1] - int(batch.prompt_length.min()) + 1)


@torch.no_grad()
def cache_residuals(subject: Subject, batch: Batch) -> Batch:
    """The batch with what enters each layer, for which it is run: interventions can start at their first layer."""
    with activations.record(subject.model, ["resid_pre"]) as store:
        run(subject, batch, n_last=1)
    return dataclasses.replace(batch, entering=tuple(store["resid_pre"]))


@contextlib.contextmanager
def editing(subject: Subject, batch: Batch, edits: list[activations.Edit]) -> Iterator[None]:
    """Edits from the lowest layer up; the layers below are not computed if it is known what enters it."""
    with contextlib.ExitStack() as contexts:
        if edits and batch.entering:
            first = edits[0].layer
            contexts.enter_context(activations.starting_at(subject.model, first, batch.entering[first]))
        contexts.enter_context(activations.edit(subject.model, edits))
        yield


def attention_mask(batch: Batch, dtype: torch.dtype, n_trials: int = 1) -> Tensor:
    """What each token may attend to [batch 1 trial*pos prefix+trial*pos]: 0 where it may, else the lowest number.

    The tokens of a batch stand `n_trials` times side by side, and those of one trial do not see another.
    """
    size, real = batch.input_ids.shape[1], batch.attention_mask.bool()
    own = torch.eye(n_trials, dtype=torch.bool, device=real.device)
    within = torch.einsum("tu,bij->btiuj", own, batch.sees & real[:, None, batch.n_prefix :]).flatten(1, 2).flatten(2)
    seen = torch.cat([real[:, None, : batch.n_prefix].expand(-1, n_trials * size, -1), within], dim=2)
    zero = torch.zeros(seen.shape, dtype=dtype, device=real.device)
    return zero.masked_fill(~seen, torch.finfo(dtype).min)[:, None]


def score(logits: Tensor, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
    """For each answer the log-probability of any of its alternatives (nats), and if one is greedy: each [batch].

    `logits` may leave out the first positions, before the last token of the shortest prompt.
    """
    result = {}
    first = batch.input_ids.shape[1] - logits.shape[1]
    row = torch.arange(len(logits), device=logits.device)[:, None]
    n_before = torch.zeros_like(row)  # tokens of earlier branches
    for name, answer in batch.answers.items():
        real = answer != NO_TOKEN
        # The first token is predicted after the prompt, each further one after the token before it in its branch.
        n_run = (real.sum(2) - 1).clamp(min=0)
        begin, n_before = n_before + n_run.cumsum(1) - n_run, n_before + n_run.sum(1, keepdim=True)
        token = torch.arange(answer.shape[2], device=logits.device)
        place = torch.where(real & (token > 0), begin[:, :, None] + token, 0)
        position = batch.prompt_length[:, None] - 1 - first + torch.arange(int(place.max()) + 1, device=logits.device)
        at = logits[row, position.clamp(max=logits.shape[1] - 1)].float()
        log_p = at.log_softmax(-1)[row[:, :, None], place, answer.clamp(min=0)]
        greedy = (at.argmax(-1)[row[:, :, None], place] == answer) | ~real
        is_there = real.any(2)  # an input may have fewer alternatives than others
        log_p_of_each = (log_p * real).sum(2).masked_fill(~is_there, -torch.inf)
        log_p_of_any = activations.finite(log_p_of_each.logsumexp(1), "the logits")
        # No probability exceeds 1, though the sum of rounded ones may.
        result[name] = (log_p_of_any.clamp(max=0), (greedy.all(2) & is_there).any(1))
    return result


def label(is_memorization: NDArray[np.bool_], is_generalization: NDArray[np.bool_]) -> np.ndarray:
    """The behaviour, from whether the greedy answer is that of each target; generalization where it is both."""
    return np.where(is_generalization, GENERALIZATION, np.where(is_memorization, MEMORIZATION, OTHER))


@torch.no_grad()
def measure(subject: Subject, batches: Iterable[Batch], context: Context | None = None) -> pd.DataFrame:
    """The behaviour on each prepared prompt.

    Parameters
    ----------
    context
        Makes the context manager in which each batch is run (an intervention); none by default.

    Returns
    -------
    pandas.DataFrame
        With the index of the prepared frame: `behavior` (+1, -1, 0; -1 where the greedy answer is both),
        `log_p_memorization`, `log_p_generalization` and their difference `log_odds` (nats; nan where an input has no
        such answer).
    """
    names = [NAMES[target] for target in TARGETS]
    columns: dict[str, list[pd.Series]] = {f"{column}{name}": [] for name in names for column in ("log_p_", "greedy_")}
    for batch in batches:
        with context(batch) if context else contextlib.nullcontext():
            logits = run_answers(subject, batch)
        for name, (log_p, greedy) in score(logits, batch).items():
            columns[f"log_p_{name}"].append(pd.Series(log_p.cpu().double().numpy(), batch.rows))
            columns[f"greedy_{name}"].append(pd.Series(greedy.cpu().numpy(), batch.rows))
    series = {name: pd.concat(parts) if parts else pd.Series(dtype=float) for name, parts in columns.items()}
    result = pd.concat(series, axis=1).sort_index()
    result["behavior"] = label(*(result[f"greedy_{name}"].eq(True).to_numpy() for name in names))
    result["log_odds"] = result.log_p_memorization - result.log_p_generalization
    return result[["behavior", "log_p_memorization", "log_p_generalization", "log_odds"]]


def read_states(
    subject: Subject, frame: pd.DataFrame, sites: Sequence[str]
) -> Iterator[tuple[pd.Index, dict[str, np.ndarray]]]:
    """The activations at each prompt's last token, batch by batch.

    Yields
    ------
    index, states
        The rows of `frame` (in order) and for each site an array [batch layer neuron].
    """
    for start in range(0, len(frame), subject.batch_size):
        batch = prompts(subject, frame.iloc[start : start + subject.batch_size])
        with torch.no_grad(), activations.record(subject.model, sites) as store:
            run(subject, batch, n_last=1)
        last = {site: activations.at_last(store[site], batch.prompt_length, site) for site in sites}
        yield batch.rows, {site: state.cpu().numpy() for site, state in last.items()}


def states(subject: Subject, frame: pd.DataFrame, sites: Sequence[str]) -> dict[str, np.ndarray]:
    """The activations at each prompt's last token: for each site an array [rows layer neuron]."""
    parts = [state for _, state in read_states(subject, frame, sites)]
    return {site: np.concatenate([part[site] for part in parts]) for site in sites}


def sample_by_kind(frame: pd.DataFrame, n: int, rng: np.random.Generator) -> pd.DataFrame:
    """At most `n` rows of each kind, at random, in the frame's order."""
    parts = [rows.sample(min(len(rows), n), random_state=rng) for _, rows in frame.groupby("kind")]
    return pd.concat(parts).sort_index()


def sample_originals(frames: Sequence[pd.DataFrame], n: int, rng: np.random.Generator) -> pd.DataFrame:
    """About `n` rows of each kind of the frames together, at random; each original with its variants."""
    parts, start = [], 0
    for frame in frames:
        moved = frame.variant_of.where(frame.variant_of < 0, frame.variant_of + start)
        parts.append(frame.assign(variant_of=moved).set_axis(frame.index + start))
        start += len(frame)
    sampled = []
    for _, rows in pd.concat(parts).groupby("kind"):
        originals = rows[rows.variant_of < 0]
        n_originals = math.ceil(min(1.0, n / len(rows)) * len(originals))
        chosen = originals.sample(n_originals, random_state=rng).index
        sampled.append(rows[rows.index.isin(chosen) | rows.variant_of.isin(chosen)])
    return pd.concat(sampled).sort_index()


def rates(behavior: pd.Series) -> dict[str, float]:
    """The shares of memorization, generalization and other (0-1)."""
    return {name: float((behavior == label).mean()) for label, name in NAMES.items()}


def accuracy(frame: pd.DataFrame, behavior: pd.Series, kind: str) -> float:
    """Share of the inputs of a kind with one right answer that get it (0-1)."""
    return float((behavior[frame.kind == kind] == RIGHT_ANSWER[kind]).mean())


def flip_pairs(frame: pd.DataFrame, behavior: pd.Series, at_least: int = 0) -> pd.DataFrame:
    """The pairs: conflict inputs and variants of them on which the model behaves oppositely.

    Fewer than `at_least` are an InputError.

    Returns
    -------
    pandas.DataFrame
        `memorization` and `generalization`: the index (in `frame`) of the member with that behaviour; `group`.
    """
    variants = frame[(frame.kind == "conflict") & (frame.variant_of >= 0)]
    label, original_label = (behavior.loc[rows].to_numpy() for rows in (variants.index, variants.variant_of))
    flips = label * original_label == MEMORIZATION * GENERALIZATION
    if flips.sum() < at_least:
        raise InputError(
            f"Only {flips.sum()} of {len(variants)} variants flip this model's behaviour, and {at_least} pairs are "
            "needed: train it longer, or on other data."
        )
    variant, original = variants.index.to_numpy()[flips], variants.variant_of.to_numpy()[flips]
    variant_memorizes = label[flips] == MEMORIZATION
    return pd.DataFrame(
        {
            "memorization": np.where(variant_memorizes, variant, original),
            "generalization": np.where(variant_memorizes, original, variant),
            "group": variants.group.to_numpy()[flips],
        }
    )

"""A table of the user's own: prompts, and what memory and inference answer to them, for a pretrained model.

A row is an input. `prompt` is a text. `answer_memorization` and `answer_generalization` are what may follow it, each
alone or several that count alike with ``|`` between them; one of the two may be empty. `group` is what could leak from
one split to another, and no split divides it. `variant_of` is the row, counted from 0, that the row rewrites, and empty
or -1 in an original. A column `kind` may tell `aligned` rows, whose answers agree, from conflicts.
"""

import functools
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedTokenizerBase

from memgen import pretrained
from memgen.config import InputError, PretrainedConfig, TrainingConfig, require, root
from memgen.tasks.common import KINDS, SPLITS, BaseTask, TaskData, split_groups
from memgen.tasks.lessons import Lesson

ANSWERS = ["answer_memorization", "answer_generalization"]
COLUMNS = ["prompt", *ANSWERS, "group", "variant_of"]
LEAST_GROUPS = 8  # leave two to each split, as a probe needs
LEAST_TOKENS = 6  # of a prompt: shifts act on its last four, and on all but the first
READERS = {
    ".parquet": pd.read_parquet,
    ".csv": functools.partial(pd.read_csv, dtype=str, keep_default_na=False, encoding="utf-8-sig"),
    ".jsonl": functools.partial(pd.read_json, lines=True, dtype=False),
}


class Task(BaseTask):
    """Settings of the task.

    `table` is the path of a file, from the project's root. Between a prompt and its answer stands `separator`, unless
    the prompt ends with a new line or the answer begins with a space.

    Where a model is trained, the texts are the rows with one right answer: what is remembered of all groups, as in the
    study, and what is inferred of the training split alone. No conflict is among them.
    """

    table: str
    model: PretrainedConfig
    separator: str = " "

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's own tokenizer."""
        return pretrained.load_tokenizer(self.model)

    def generate(self, rng: np.random.Generator) -> TaskData:
        """The rows by split; whatever is wrong with the table is an :class:`memgen.config.InputError`."""
        frame = self._in_tokens(self._checked(self._read()))
        has_conflict = frame.group.isin(frame.group[frame.kind == "conflict"])
        contested, others = (list(frame.group[rows].unique()) for rows in (has_conflict, ~has_conflict))
        require(
            len(contested) >= LEAST_GROUPS,
            f"{self.table} has conflicts of {len(contested)} groups, and the three splits need {LEAST_GROUPS} or more.",
        )
        split = frame.group.map(split_groups(contested, rng) | split_groups(others, rng))
        bound = frame.assign(split=split)[["group", ANSWERS[0], "form", "split"]].dropna().drop_duplicates()
        splits = {}
        for name in SPLITS:
            rows = frame[split == name]
            place = pd.Series(range(len(rows)), rows.index)
            originals = rows.variant_of.map(place).fillna(-1).astype(int)
            splits[name] = rows.assign(variant_of=originals).reset_index(drop=True)
        return TaskData(bound, self._corpus(frame, split), splits)

    def lessons(self, memory: pd.DataFrame, corpus: pd.DataFrame, config: TrainingConfig, seed: int) -> list[Lesson]:
        """The texts; none for a model that is not trained."""
        if config.adaptation == "none":
            nothing = torch.zeros(0, 0, dtype=torch.long)
            return [Lesson("texts", 0, lambda _step: (nothing, nothing))]
        require(
            len(corpus) > 0,
            f"{self.table} has no row with one right answer, and these are what a model is trained on; allowed is the "
            "adaptation 'none', the model as it comes.",
        )
        return super().lessons(memory, corpus, config, seed)

    def _read(self) -> pd.DataFrame:
        suffix = Path(self.table).suffix.lower()
        require(suffix in READERS, f"The table {self.table} has an unknown format; allowed are {', '.join(READERS)}.")
        try:
            return READERS[suffix](root() / self.table)
        except (ValueError, OSError) as error:
            raise InputError(f"The table {self.table} cannot be read as {suffix} ({type(error).__name__}).") from None

    def _refuse(self, wrong: pd.Series, what: str) -> None:
        if wrong.any():
            raise InputError(f"{self.table}: row {wrong.idxmax()} (counted from 0) {what}.")

    def _checked(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows with their kinds; what is missing is None."""
        missing = [name for name in COLUMNS if name not in frame]
        require(not missing, f"{self.table} has no column {', '.join(missing)}; it has {', '.join(map(str, frame))}.")
        require(len(frame) > 0, f"{self.table} has no rows.")
        frame = frame.reindex(columns=[*COLUMNS, "kind"]).reset_index(drop=True).astype(object)
        frame = frame.where(frame.notna() & (frame != ""), None)
        for name in ("prompt", *ANSWERS):
            is_text = [value is None or (isinstance(value, str) and value.strip() != "") for value in frame[name]]
            self._refuse(~pd.Series(is_text, dtype=bool), f"has a {name} that is no text")
        for name in ("prompt", "group"):
            self._refuse(frame[name].isna(), f"has no {name}")
        has = frame[ANSWERS].notna()
        self._refuse(~has.any(axis=1), "has no answer")
        frame["prompt"] = frame.prompt.str.rstrip(" ")  # a last space belongs to the answer's first token
        frame["group"] = frame.group.map(str)
        kinds = np.where(has.all(axis=1), "conflict", np.where(has[ANSWERS[0]], "memorized_only", "inferred_only"))
        given, kinds = frame.kind.fillna(pd.Series(kinds)), pd.Series(kinds)
        is_fit = (given == kinds) | ((given == "aligned") & (kinds == "conflict"))
        self._refuse(~is_fit, f"has a kind that does not suit its answers; the kinds are {', '.join(KINDS)}")
        frame["kind"] = given
        self._refuse(frame.prompt.duplicated(), "has the prompt of a row above")
        number = pd.to_numeric(frame.variant_of, errors="coerce")
        is_row = frame.variant_of.isna() | number.isin([-1, *frame.index])
        self._refuse(~is_row, "has a variant_of that names no row")
        frame["variant_of"] = number.fillna(-1).astype(int)
        variants = frame[frame.variant_of >= 0]
        originals = frame.loc[variants.variant_of].set_axis(variants.index)
        same = (variants[["kind", *ANSWERS, "group"]] == originals[["kind", *ANSWERS, "group"]]).all(axis=1)
        is_variant = same & (variants.kind == "conflict") & (originals.variant_of < 0)
        self._refuse(~is_variant, "is a variant, but not of an original conflict with its answers and its group")
        return frame

    def _in_tokens(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The columns of :class:`memgen.tasks.common.TaskData`.

        `words` are the prompts in as few numbers as they have tokens, padded on the left to one length with 0.
        """
        starts = np.where(frame.prompt.str.endswith("\n"), "", self.separator)
        for name in ANSWERS:
            spoken = [
                answer and "|".join(option if option[:1].isspace() else start + option for option in answer.split("|"))
                for start, answer in zip(starts, frame[name], strict=True)
            ]
            frame[name] = pd.Series(spoken, frame.index, dtype=object)
        longest_answer = self._check_answers(frame)
        ids = [np.array(tokens, dtype=np.int32) for tokens in self.tokenizer()(frame.prompt.to_list()).input_ids]
        lengths = np.array([*map(len, ids)])
        self._refuse(pd.Series(lengths < LEAST_TOKENS), f"has a prompt of fewer than {LEAST_TOKENS} tokens")
        longest = int(lengths.max())
        pretrained.require_room(self.model, longest + longest_answer)
        words = np.zeros((len(ids), longest), dtype=np.int32)
        words[np.arange(longest) >= longest - lengths[:, None]] = (
            np.unique(np.concatenate(ids), return_inverse=True)[1] + 1
        )
        unknown = {"memorized_share": np.nan, "evidence": np.nan}
        form = pd.Series("study", frame.index, dtype=object).where(frame[ANSWERS[0]].notna(), None)
        frame = frame[["prompt", "kind", *ANSWERS, "group", "variant_of"]].assign(
            **unknown, form=form, words=list(words)
        )
        frame.insert(0, "input_ids", ids)
        return frame

    def _check_answers(self, frame: pd.DataFrame) -> int:
        """Refuse answers that cannot be told apart; the number of tokens of the longest one."""
        options = [[answer.split("|") if answer else [] for answer in frame[name]] for name in ANSWERS]
        texts = sorted({*itertools.chain(*options[0], *options[1])})
        tokens = dict(zip(texts, self.tokenizer()(texts, add_special_tokens=False).input_ids, strict=True))
        alike, empty, unlike = [], [], []
        for memorized, inferred, kind in zip(*options, frame.kind, strict=True):
            is_aligned = kind == "aligned"
            unlike.append(is_aligned and not set(inferred) <= set(memorized))
            told = memorized if is_aligned else memorized + inferred
            empty.append(not all(option.strip() for option in told))
            alike.append(_one_begins_another([tokens[option] for option in told]))
        self._refuse(pd.Series(empty), "has an empty answer")
        self._refuse(pd.Series(unlike), "is aligned, but its inferred answer is none of the memorized ones")
        self._refuse(pd.Series(alike), "has answers that are the same, or of which one begins another")
        return max(map(len, tokens.values()))

    def _corpus(self, frame: pd.DataFrame, split: pd.Series) -> pd.DataFrame:
        """The training texts: prompts with their one right answer, or each of those that count alike."""
        is_text = (frame.kind == "memorized_only") | ((frame.kind != "conflict") & (split == "train"))
        texts = frame[is_text].copy()
        texts["answer"] = texts[ANSWERS[1]].fillna(texts[ANSWERS[0]]).str.split("|")
        texts = texts.explode("answer", ignore_index=True)
        answers = self.tokenizer()(texts.answer.to_list(), add_special_tokens=False).input_ids if len(texts) else []
        ids = [
            np.array([*prompt, *answer], dtype=np.int32)
            for prompt, answer in zip(texts.input_ids, answers, strict=True)
        ]
        return pd.DataFrame(
            {
                "input_ids": ids,
                "prompt_length": texts.input_ids.str.len().astype(np.int32),
                "kind": texts.kind,
                "text": texts.prompt + texts.answer,
            }
        )


def _one_begins_another(answers: Sequence[list[int]]) -> bool:
    return any(other[: len(answer)] == answer for answer, other in itertools.permutations(answers, 2))

"""Labels and log-probabilities against token-by-token decoding; batches, padding and kept prefixes change nothing."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from memgen import activations, behavior
from memgen.activations import SITES
from memgen.config import InputError
from tests.conftest import LONGEST_ANSWER, greedy

COLUMNS = ["behavior", "log_p_memorization", "log_p_generalization", "log_odds"]


def measured(setting, frame=None, **options):
    frame = setting.frame if frame is None else frame
    return behavior.measure(setting.subject, behavior.prepare(setting.subject, frame, **options))


def assert_same(first, second):
    """Labels equal; log-probabilities as close as the order of float32 sums allows."""
    assert first.behavior.to_list() == second.behavior.to_list()
    pd.testing.assert_frame_equal(first, second, check_exact=False, rtol=0, atol=1e-4)


def greedy_words(setting, frame) -> list[str]:
    """The greedy next token of each prompt, as a word."""
    words = setting.subject.tokenizer.convert_ids_to_tokens
    return [words(greedy(setting.subject.model, prompt, 1))[0] for prompt in frame.input_ids]


@torch.no_grad()
def naive(setting, row) -> dict[str, float]:
    """The label from `generate`, and log-probabilities summed token by token."""
    model, prompt = setting.subject.model, torch.tensor(row.input_ids)[None].long()
    options = {
        "max_new_tokens": LONGEST_ANSWER,
        "do_sample": False,
        "attention_mask": torch.ones_like(prompt),
    }
    generated = model.generate(prompt, **options)[0, prompt.shape[1] :].tolist()
    result = {"behavior": 0}
    for label, name in ((1, "memorization"), (-1, "generalization")):
        result[f"log_p_{name}"] = np.nan
        if pd.isna(row[f"answer_{name}"]):
            continue
        answer = setting.subject.tokenizer(row[f"answer_{name}"], add_special_tokens=False).input_ids
        if generated[: len(answer)] == answer:
            result["behavior"] = label
        ids, total = prompt, 0.0
        for token in answer:
            total += model(ids).logits[0, -1].log_softmax(-1)[token].item()
            ids = torch.cat([ids, torch.tensor([[token]])], 1)
        result[f"log_p_{name}"] = total
    result["log_odds"] = result["log_p_memorization"] - result["log_p_generalization"]
    return result


def test_measure_equals_decoding_token_by_token(setting):
    frame = setting.frame.iloc[::2]
    expected = pd.DataFrame([naive(setting, row) for _, row in frame.iterrows()], index=frame.index)[COLUMNS]
    result = measured(setting, frame)
    assert_same(result, expected)
    assert (result.behavior.value_counts()[[1, 0, -1]] >= 5).all()  # each label really occurs


@pytest.mark.parametrize("prefix", [False, True])
def test_two_answers_of_several_tokens(sums, prefix):
    """Where neither answer is a single token they are branches; the lengths differ within a batch."""
    frame = sums.frame[sums.frame.kind == "conflict"].iloc[:12].copy()
    frame["answer_memorization"], frame["answer_generalization"] = ["3", "12", "345", "3"] * 3, "45"
    expected = pd.DataFrame([naive(sums, row) for _, row in frame.iterrows()], index=frame.index)[COLUMNS]
    assert_same(measured(sums, frame, prefix=prefix), expected)


def test_one_pass_for_both_answers(setting):
    conflicts = setting.frame[setting.frame.kind == "conflict"]
    assert len(behavior.prepare(setting.subject, conflicts)) == 1
    assert len(behavior.prepare(setting.subject, setting.frame)) == 3


def test_answers_that_are_missing(setting):
    result = measured(setting)
    for name, target in (("memorization", 1), ("generalization", -1)):
        missing = setting.frame[f"answer_{name}"].isna()
        assert missing.any()
        assert (result[f"log_p_{name}"].isna() == missing).all()
        assert result.log_odds[missing].isna().all()
        assert (result.behavior[missing] != target).all()
        assert_same(measured(setting, setting.frame[missing]), result[missing])  # no input has this answer
    both = setting.frame.answer_memorization.notna() & setting.frame.answer_generalization.notna()
    assert result.log_odds[both].notna().all()


def test_an_answer_that_is_both_counts_as_generalization(stories):
    frame = stories.frame[stories.frame.kind == "conflict"]
    frame = frame.assign(answer_generalization=greedy_words(stories, frame), answer_memorization="otter")
    same = measured(stories, frame.assign(answer_memorization=frame.answer_generalization))
    assert (same.log_odds == 0).all()
    among = measured(stories, frame.assign(answer_memorization="otter|" + frame.answer_generalization))
    assert set(same.behavior) == set(among.behavior) == {-1}


class TestAlternatives:
    """Several answers that count alike."""

    def test_no_sum_of_probabilities_exceeds_one(self):
        """Of five that have nearly all probability, the rounded ones add up to more in many cases."""
        n_rows, logits = 500, torch.randn(500, 1, 40, generator=torch.Generator().manual_seed(0))
        logits[..., :5] += 20
        ones = torch.ones(n_rows, 1, dtype=torch.long)
        answers = {"memorization": torch.arange(5)[None, :, None].expand(n_rows, -1, -1)}
        batch = behavior.Batch(pd.RangeIndex(n_rows), ones, ones, ones[:, 0], answers)
        assert (logits.log_softmax(-1)[:, 0, :5].logsumexp(-1) > 0).any()
        assert (behavior.score(logits, batch)["memorization"][0] <= 0).all()

    def test_any_of_them_is_the_answer(self, stories):
        """Log-probabilities are those of a sum of probabilities, from a pass over the prompt alone."""
        frame = stories.frame[stories.frame.kind == "conflict"].iloc[:24].copy()
        said = greedy_words(stories, frame)
        options = [[word, "otter", "crow"][i % 3 :] for i, word in enumerate(said)]
        options = [of_input if "otter" in of_input else ["otter", *of_input] for of_input in options]
        frame["answer_memorization"] = ["|".join(dict.fromkeys(of_input)) for of_input in options]
        frame["answer_generalization"] = "crimson"
        assert frame.answer_memorization.str.count(r"\|").nunique() > 1  # of unequal number
        result = measured(stories, frame)
        for prompt, (row, answer), word in zip(frame.input_ids, frame.answer_memorization.items(), said, strict=True):
            with torch.no_grad():
                p = stories.subject.model(torch.tensor(np.array([prompt])).long()).logits[0, -1].softmax(-1)
            ids = stories.subject.tokenizer.convert_tokens_to_ids(answer.split("|"))
            assert result.log_p_memorization[row] == pytest.approx(np.log(float(p[ids].sum())), abs=1e-4)
            expected = -1 if word == "crimson" else 1 if word in answer.split("|") else 0
            assert result.behavior[row] == expected
        assert set(result.behavior) >= {0, 1}

    def test_in_any_order_and_beside_inputs_with_fewer(self, stories):
        frame = stories.frame[stories.frame.kind == "conflict"].iloc[:12].assign(answer_memorization="red|otter|crow")
        whole = measured(stories, frame)
        pd.testing.assert_frame_equal(
            measured(stories, frame.assign(answer_memorization="crow|red|otter")), whole, rtol=0, atol=1e-5
        )
        mixed = frame.copy()
        mixed.loc[frame.index[::2], "answer_memorization"] = "red"
        pd.testing.assert_frame_equal(
            measured(stories, mixed).loc[frame.index[1::2]], whole.iloc[1::2], check_exact=True
        )
        alone = measured(stories, frame.assign(answer_memorization="red"))
        pd.testing.assert_frame_equal(measured(stories, mixed).iloc[::2], alone.iloc[::2], check_exact=True)

    def test_one_longer_alternative_is_scored_in_the_same_pass(self, sums):
        """Beside single tokens, of either answer: each as if it were the only one."""
        frame = sums.frame[sums.frame.kind == "conflict"].iloc[:12].copy()
        for memorized, inferred in (("7|8", "9|120"), ("7|345", "9")):
            (batch,) = behavior.prepare(
                sums.subject, frame.assign(answer_memorization=memorized, answer_generalization=inferred)
            )
            found = behavior.measure(sums.subject, [batch])
            for name, answer in (("memorization", memorized), ("generalization", inferred)):
                each = [
                    measured(sums, frame.assign(**{f"answer_{name}": option}))[f"log_p_{name}"]
                    for option in answer.split("|")
                ]
                np.testing.assert_allclose(found[f"log_p_{name}"], np.logaddexp.reduce(each), atol=1e-4)

    @pytest.mark.parametrize("prefix", [False, True])
    def test_several_longer_alternatives_are_branches(self, setting, prefix):
        """In one pass, each as if it were the only one; beside prompts of other lengths and with fewer of them."""
        frame = setting.frame[setting.frame.kind == "conflict"].iloc[:12].copy()
        frame["input_ids"] = [ids[np.r_[0, 1 + i % 3 : len(ids)]] for i, ids in enumerate(frame.input_ids)]
        several = {"inference": ["crow red|red|blue otter red", "green crow"], "addition": ["12|7|345", "98"]}
        answers = several["inference" if setting.query_length == 3 else "addition"]
        names = ("memorization", "generalization")
        given = frame.assign(**{f"answer_{name}": answer for name, answer in zip(names, answers, strict=True)})
        given.loc[frame.index[::4], "answer_memorization"] = answers[0].split("|")[1]
        (batch,) = behavior.prepare(setting.subject, given, prefix=prefix)
        found = behavior.measure(setting.subject, [batch])
        for name in names:
            for i, answer in given[f"answer_{name}"].items():
                alone = [
                    measured(setting, given.loc[[i]].assign(**{f"answer_{name}": option}))
                    for option in answer.split("|")
                ]
                expected = np.logaddexp.reduce([of_option[f"log_p_{name}"].item() for of_option in alone])
                assert found[f"log_p_{name}"][i] == pytest.approx(expected, abs=1e-4)

    def test_a_branch_may_be_the_greedy_answer(self, sums):
        frame = sums.frame[sums.frame.kind == "conflict"].iloc[:12].copy()
        said = [
            "".join(sums.subject.tokenizer.convert_ids_to_tokens(greedy(sums.subject.model, ids, 3)))
            for ids in frame.input_ids
        ]
        wrong = [text[:-1] + ("1" if text[-1] == "2" else "2") for text in said]
        right = frame.assign(answer_memorization=[f"{a}|{b}" for a, b in zip(wrong, said, strict=True)])
        right["answer_generalization"] = "+="
        assert (measured(sums, right).behavior == 1).all()
        assert (measured(sums, right.assign(answer_memorization=[f"{text}|+++" for text in wrong])).behavior == 0).all()


def test_a_single_alternative_is_scored_as_ever(setting):
    """Bit for bit: the sum of the log-probabilities of the answer's tokens, and whether each is the greedy one."""
    for batch in behavior.prepare(setting.subject, setting.frame):
        with torch.no_grad():
            logits = behavior.run(setting.subject, batch)
        for name, (log_p, is_greedy) in behavior.score(logits, batch).items():
            answer = batch.answers[name][:, 0]
            real, row = answer != behavior.NO_TOKEN, torch.arange(len(logits))[:, None]
            position = batch.prompt_length[:, None] - 1 + torch.arange(answer.shape[1])
            at = logits[row, position.clamp(max=logits.shape[1] - 1)]
            of_tokens = at.log_softmax(-1).gather(-1, answer.clamp(min=0)[..., None])[..., 0]
            assert torch.equal(log_p, (of_tokens * real).sum(1))
            assert torch.equal(is_greedy, ((at.argmax(-1) == answer) | ~real).all(1))


def test_a_batch_equals_single_and_reordered_inputs(setting, rng):
    whole = measured(setting)
    assert whole.index.equals(setting.frame.index)
    assert_same(measured(setting, setting.frame.iloc[::4], batch_size=1), whole.iloc[::4])
    assert_same(measured(setting, batch_size=7), whole)
    assert_same(measured(setting, setting.frame.sample(frac=1, random_state=rng)), whole)


def test_padding_equals_none(setting):
    """Prompts of three lengths in one batch, and one by one."""
    frame = setting.frame.iloc[::4].copy()
    plain = measured(setting, frame)
    frame["input_ids"] = [ids[np.r_[0, 1 + i % 3 : len(ids)]] for i, ids in enumerate(frame.input_ids)]
    padded, single = measured(setting, frame), measured(setting, frame, batch_size=1)
    assert_same(padded, single)
    assert not np.allclose(padded.log_p_memorization.dropna(), plain.log_p_memorization.dropna(), atol=0.1)


def test_a_cached_prefix_equals_the_full_run_however_often_it_is_used(setting):
    subject = dataclasses.replace(setting.subject, n_tokens=setting.query_length)
    prepared = behavior.prepare(subject, setting.frame, prefix=True)
    prefixes = [keys.clone() for batch in prepared for layer in batch.prefix for keys in layer]
    first, second = (behavior.measure(subject, prepared) for _ in range(2))
    assert_same(first, measured(setting))
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    again = [keys for batch in prepared for layer in batch.prefix for keys in layer]
    assert all(map(torch.equal, prefixes, again))
    assert all((batch.prompt_length == setting.query_length).all() for batch in prepared)


def test_prompts_of_any_length_begin_after_a_prefix_of_their_own(setting):
    """A prompt of no more than `n_tokens` tokens has none, beside others or alone."""
    frame = setting.frame.iloc[::4].copy()
    whole = setting.frame.input_ids.str.len().iloc[0]
    frame["input_ids"] = [ids[np.r_[0, 1 + i % 3 : len(ids)]] for i, ids in enumerate(frame.input_ids)]
    expected = measured(setting, frame)
    for n_tokens in (1, setting.query_length, whole - 2, whole - 1, whole, 100):
        subject = dataclasses.replace(setting.subject, n_tokens=n_tokens)
        prepared = behavior.prepare(subject, frame, prefix=True)
        for batch in prepared:
            lengths = frame.input_ids.loc[batch.rows].str.len().clip(upper=n_tokens)
            assert batch.prompt_length.tolist() == lengths.to_list()
            assert (batch.prefix is None) == (batch.n_prefix == 0)
        assert max(batch.n_prefix for batch in prepared) == max(whole - n_tokens, 0)
        assert_same(behavior.measure(subject, prepared), expected)


def test_from_end_covers_the_last_prompt_tokens_and_all_that_follow(sums):
    frame = sums.frame[sums.frame.kind == "conflict"].iloc[:2].copy()
    frame["input_ids"] = [frame.input_ids.iloc[0], frame.input_ids.iloc[1][2:]]  # 9 and 7, then 3 of the answer
    (batch,) = behavior.prepare(sums.subject, frame)
    assert batch.from_end(1).tolist() == [[False] * 8 + [True] * 4, [False] * 6 + [True] * 6]
    assert batch.from_end(2).tolist() == [[False] * 7 + [True] * 5, [False] * 5 + [True] * 7]


def test_from_end_refuses_tokens_that_were_computed_before(sums):
    """A shift there would silently do nothing."""
    subject = dataclasses.replace(sums.subject, n_tokens=2)
    (batch,) = behavior.prepare(subject, sums.frame[sums.frame.kind == "conflict"], prefix=True)
    assert batch.from_end(2).all()
    with pytest.raises(ValueError, match=r"last 3 .* only the last 2"):
        batch.from_end(3)


def test_states_are_those_at_the_last_prompt_token(setting):
    """Prompts of two lengths in one batch, against each prompt alone."""
    subject = setting.subject
    frame = setting.frame.iloc[::3].copy()
    frame["input_ids"] = [ids[i % 2 :] for i, ids in enumerate(frame.input_ids)]
    states = behavior.states(dataclasses.replace(subject, batch_size=7), frame, SITES)
    assert {site: array.shape for site, array in states.items()} == {
        site: (len(frame), *subject.shape(site)) for site in SITES
    }
    for row, ids in enumerate(frame.input_ids):
        with torch.no_grad(), activations.record(subject.model, SITES) as store:
            subject.model(torch.tensor(np.array([ids])).long())
        for site in SITES:
            alone = torch.stack([layer[0, -1] for layer in store[site]])
            np.testing.assert_allclose(states[site][row], alone, atol=1e-4)


def test_states_come_batch_by_batch_in_the_order_of_the_frame(sums):
    frame = sums.frame.sample(frac=1, random_state=0)
    batches = list(behavior.read_states(dataclasses.replace(sums.subject, batch_size=10), frame, ["mlp_out"]))
    assert [len(index) for index, _ in batches][:-1] == [10] * (len(batches) - 1)
    assert [row for index, _ in batches for row in index] == list(frame.index)
    whole = behavior.states(sums.subject, sums.frame, ["mlp_out"])["mlp_out"]
    shuffled = np.concatenate([states["mlp_out"] for _, states in batches])
    np.testing.assert_allclose(shuffled, whole[frame.index], atol=1e-5)


def test_a_context_sees_every_batch_and_can_change_the_result(sums):
    """A logit raised at the prompt's end makes its token the answer."""
    tag = sums.subject.tokenizer.convert_ids_to_tokens(20)
    frame = sums.frame[sums.frame.kind == "conflict"].assign(answer_memorization=tag)
    prepared = behavior.prepare(sums.subject, frame, batch_size=8)
    seen = []

    class Raise:
        def __init__(self, batch):
            seen.extend(batch.rows)

        def __enter__(self):
            def hook(_module, _args, output):
                new = output.clone()
                new[..., 20] = 1e3
                return new

            self.handle = sums.subject.model.lm_head.register_forward_hook(hook)

        def __exit__(self, *_):
            self.handle.remove()

    result = behavior.measure(sums.subject, prepared, Raise)
    assert seen == list(frame.index)
    assert (result.behavior == 1).all()
    assert np.allclose(result.log_p_memorization, 0)


def test_score_by_hand(sums):
    """Two prompts of different length, answers of two tokens and of one, logits that are given."""
    frame = sums.frame[sums.frame.kind == "conflict"].iloc[:2].copy()
    (batch,) = behavior.prepare(sums.subject, frame)
    answers = {"memorization": torch.tensor([[[4, behavior.NO_TOKEN]], [[1, 2]]])}
    batch = dataclasses.replace(
        batch, input_ids=batch.input_ids[:, :3], prompt_length=torch.tensor([1, 2]), answers=answers
    )
    logits = torch.zeros(2, 3, 5)
    logits[0, 0, 4] = logits[1, 1, 1] = np.log(4.0)  # p = 4/8
    logits[1, 2, 0] = np.log(2.0)  # p of token 2 is 1/6, and it is not the greedy one
    log_p, is_greedy = behavior.score(logits, batch)["memorization"]
    assert log_p.tolist() == pytest.approx([np.log(1 / 2), np.log(1 / 2 / 6)])
    assert is_greedy.tolist() == [True, False]


class TestFlipPairs:
    FRAME = pd.DataFrame(
        [
            # kind, variant_of, group, behaviour
            ("conflict", -1, "a", 1),
            ("conflict", -1, "b", -1),
            ("conflict", -1, "c", 1),
            ("conflict", -1, "d", 0),
            ("conflict", -1, "e", -1),
            ("aligned", -1, "f", 1),
            ("aligned", 15, "f", -1),
            ("conflict", 10, "a", -1),
            ("conflict", 11, "b", 1),
            ("conflict", 12, "c", 1),
            ("conflict", 13, "d", -1),
            ("conflict", 14, "e", 0),
        ],
        columns=["kind", "variant_of", "group", "behavior"],
        index=range(10, 22),
    )
    BEHAVIOR = FRAME.behavior

    def test_opposite_behaviours_make_a_pair(self):
        pairs = behavior.flip_pairs(self.FRAME, self.BEHAVIOR)
        expected = {"memorization": [10, 18], "generalization": [17, 11], "group": ["a", "b"]}
        assert pairs.to_dict("list") == expected

    def test_the_order_of_the_labels_does_not_matter(self):
        pd.testing.assert_frame_equal(
            behavior.flip_pairs(self.FRAME, self.BEHAVIOR[::-1]),
            behavior.flip_pairs(self.FRAME, self.BEHAVIOR),
        )

    def test_too_few_pairs(self):
        assert len(behavior.flip_pairs(self.FRAME, self.BEHAVIOR, at_least=2)) == 2
        with pytest.raises(
            InputError, match="Only 2 of 5 variants flip this model's behaviour, and 3 pairs are needed"
        ):
            behavior.flip_pairs(self.FRAME, self.BEHAVIOR, at_least=3)

    def test_a_model_that_never_flips(self):
        assert behavior.flip_pairs(self.FRAME, self.BEHAVIOR * 0).empty

    def test_planted_model(self, planted, planted_pairs):
        assert len(planted_pairs) == 60
        members = planted_pairs[["memorization", "generalization"]]
        assert sorted(members.to_numpy().ravel()) == list(planted.frame.index)
        assert (planted.frame.group[members.memorization].to_numpy() == planted_pairs.group).all()


def test_rates_and_accuracy():
    label = pd.Series([1, 1, -1, 0, -1])
    frame = pd.DataFrame({"kind": ["memorized_only"] * 3 + ["inferred_only"] * 2})
    assert behavior.rates(label) == {"memorization": 0.4, "generalization": 0.4, "other": 0.2}
    assert behavior.accuracy(frame, label, "memorized_only") == pytest.approx(2 / 3)
    assert behavior.accuracy(frame, label, "inferred_only") == 0.5


def test_sample_by_kind_takes_at_most_n_of_each(rng):
    frame = pd.DataFrame({"kind": ["a"] * 30 + ["b"] * 3 + ["a"] * 30})
    sample = behavior.sample_by_kind(frame, 10, rng)
    assert sample.kind.value_counts().to_dict() == {"a": 10, "b": 3}
    assert sample.index.is_monotonic_increasing
    assert sample.index.is_unique
    assert len(behavior.sample_by_kind(frame, 100, rng)) == 63

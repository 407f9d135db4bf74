"""What interventions do to behaviours: trials beside their controls, and the numbers against hand-made frames."""

import numpy as np
import pandas as pd
import pytest
import torch

from memgen import behavior, localization, steering
from memgen.config import AnalysisConfig, InputError

SHAPE = (2, 32)


@pytest.fixture
def table(planted, planted_pairs, rng):
    """The planted model's table of neurons."""
    inputs = (planted.model, planted.frame, planted_pairs, planted.tokenizer, ["resid_post", "mlp.hook_post"])
    return localization.neuron_table(localization.accumulate(*inputs), 2, rng, 100)


LOOSE = AnalysisConfig(max_other=0.05, max_control=1.0)


def prepare(setting, frame=None):
    return behavior.prepare(setting.model, setting.frame if frame is None else frame, setting.tokenizer, keep=1)


class TestTrials:
    """One neuron is enough where one neuron decides, and random ones do nothing."""

    @pytest.fixture
    def trials(self, planted):
        prepared = prepare(planted)
        before = behavior.measure(planted.model, prepared)
        return steering.Trials(planted.model, prepared, before, n_tokens=1, n_controls=2)

    @pytest.fixture
    def learn(self, planted, trials):
        inputs = {target: planted.frame[trials.before.behavior == -target][:24] for target in steering.TARGETS}
        return {target: prepare(planted, frame) for target, frame in inputs.items()}

    def test_a_shift_is_compared_with_the_strongest_kind_of_control(self, planted, trials, rng):
        """Of one kind both draws do nothing; of the other, one does the same and one nothing."""
        own = planted_shift(planted, 4.0)
        draws = iter([own, own * 0])
        controls = {"weak": lambda shift, _: shift * 0, "strong": lambda _shift, _rng: next(draws)}
        (told,) = trials.compare("resid_post", [own], 1, controls, rng).to_dict("records")
        assert told["to_target"] > 0.95
        assert told["weak"] == 0
        assert told["strong"] == told["control"] == told["net"] == told["to_target"] / 2
        assert told["norm"] == 4.0

    def test_several_shifts_are_each_compared_with_their_own(self, planted, trials, rng):
        shifts = [planted_shift(planted, value) for value in (4.0, 0.0, -4.0)]
        same = {"same": lambda shift, _: shift, "none": lambda shift, _: shift * 0}
        told = trials.compare("resid_post", shifts, 1, same, rng)
        assert told.to_target[0] > 0.95
        assert told.same.to_list() == told.to_target.to_list()
        assert told.net.to_list() == told.to_other.to_list() == [0, 0, 0]
        assert told.to_target.to_list()[1:] == told.none.to_list()[1:] == [0, 0]
        assert told.wrong_way.to_list() == [0, 0, 1]

    def test_a_shift_is_preferred_by_the_probability_of_the_targets_answer(self, planted, trials, rng):
        """Also where no greedy answer moves yet; the strongest kind of control is taken away."""
        shifts = [planted_shift(planted, value) for value in (1.0, 4.0, 0.0)]
        controls = {"none": lambda shift, _: shift * 0, "half": lambda shift, _: shift / 2}
        told = trials.compare("resid_post", shifts, 1, controls, rng)
        before = trials.before[trials.before.behavior == -1]

        def likely(value):
            odds = trials.run("resid_post", planted_shift(planted, value)).log_odds[before.index]
            return (1 / (1 + np.exp(-odds))).mean()

        expected = [likely(1.0) - likely(0.5), likely(4.0) - likely(2.0), 0.0]
        assert told.preferred.to_list() == pytest.approx(expected, abs=1e-5)

    def test_preference_moves_where_greedy_answers_do_not(self):
        before = pd.DataFrame({"behavior": [-1, -1, 1, 0], "log_odds": [-3.0, -2.0, 4.0, 0.0]}, index=[4, 3, 9, 1])
        sure, barely = (before.assign(log_odds=before.log_odds + by).sort_index() for by in (9.0, 4.0))
        for after, by in ((sure, 9.0), (barely, 4.0)):
            expected = np.mean([1 / (1 + np.exp(3.0 - by)), 1 / (1 + np.exp(2.0 - by))])
            assert steering.preference(before, after, 1) == pytest.approx(expected)
        assert steering.preference(before, barely, -1) == pytest.approx(1 / (1 + np.exp(8.0)))
        assert np.isnan(steering.preference(before[before.behavior == 0], barely, 1))

    def test_what_shall_be_kept_is_counted(self, planted, trials, rng):
        """Inputs that memorization answers right: a shift away from it loses them, one towards it does not."""
        before = trials.before.behavior
        only = {1: "memorized_only", -1: "inferred_only"}
        for target in steering.TARGETS:
            one_answer = planted.frame[before == target].assign(kind=only[target])
            frame = pd.concat([planted.frame[before == -target], one_answer])
            made = steering.opposite_trials(
                planted.model, frame, before, target, planted.tokenizer, AnalysisConfig(), rng
            )
            assert set(made.before.index) == set(before.index[before == -target])
            assert set(made.kept.before.index) == set(one_answer.index)
            shifts = [planted_shift(planted, value * target) for value in (9.0, -9.0)]
            told = made.compare("resid_post", shifts, target, {"none": lambda shift, _: shift * 0}, rng)
            assert told.lost.to_list() == [0, 1]
            turned, kept = steering.to_fit(frame, before, target, 20, rng)
            assert len(turned) == 20
            assert len(kept) == 10
            assert set(kept.kind) == {only[target]}
            assert (before[turned.index] == -target).all()

    @pytest.mark.parametrize("site", ["resid_post", "mlp.hook_post"])
    def test_the_studys_sweep_finds_the_neuron(self, trials, table, site, rng):
        sweeps = dict.fromkeys(steering.TARGETS, trials)
        controls = steering.controls("study", table, site)
        tried, shifts = steering.sweep_study(sweeps, table, site, [1, 2], [0.1, 1.0], controls, rng)
        assert tried[["target", "n", "alpha"]].to_numpy().tolist() == [
            [target, n, alpha] for target in (1, -1) for n in (1, 2) for alpha in (0.1, 1.0)
        ]
        for target in steering.TARGETS:
            assert steering.choose(tried, target, LOOSE).alpha == 1.0
            own = tried[tried.target == target].set_index(["n", "alpha"])
            assert own.to_target[1, 1.0] > 0.95
            assert own["random control"][1, 1.0] < 0.5
            assert own["least correlated control"][1, 1.0] < 0.5  # a direction on one neuron is its sign: no control
            assert own.wrong_way[1, 1.0] == 0
            assert own.to_target[1, 0.1] < 0.2
            expected = target * steering.study_shift(table, site, 2, 1.0, tuple(shifts[target, "top 2"].shape))
            assert torch.equal(shifts[target, "top 2"], expected)

    def test_the_sweep_of_fitted_shifts(self, planted, trials, learn, rng):
        config = AnalysisConfig(fit_steps=40, fit_learning_rate=0.1, strengths=(0.5, 1.0))
        candidates = dict.fromkeys(steering.TARGETS, steering.layer_candidates(SHAPE, [0.1, 0.01]))
        sweeps, controls = dict.fromkeys(steering.TARGETS, trials), {"random control": steering.random_direction}
        tried, shifts = steering.sweep_fitted(sweeps, learn, "resid_post", candidates, config, controls, rng)
        names = ["layer 0, penalty 0.1", "layer 1, penalty 0.1", "all, penalty 0.1", "all, penalty 0.01"]
        assert list(shifts) == [(target, name) for target in (1, -1) for name in names]
        assert len(tried) == 2 * len(names) * 2
        for (target, name), own in shifts.items():
            layers = torch.nonzero(own.abs().sum(1)).flatten().tolist()
            assert layers == {names[0]: [0], names[1]: [1]}.get(name, [0, 1])
            rows = tried[(tried.target == target) & (tried.candidate == name)]
            assert rows.strength.to_list() == [0.5, 1.0]
            assert rows.norm.to_numpy() == pytest.approx(float(own.norm()) * rows.strength)
            after = trials.run("resid_post", own)
            row = rows.iloc[1]
            assert row[["to_target", "to_other", "wrong_way"]].to_dict() == steering.rates(trials.before, after, target)
        made = steering.decide(tried, shifts, "resid_post", "fitted", config)
        for target, name in ((1, "memorization"), (-1, "generalization")):
            row = steering.choose(tried, target, config)
            assert row.net > 0.9
            assert torch.equal(made.shift(target), row.strength * shifts[target, row.candidate])
            assert made.how["alpha"][name] == row.strength
            assert made.how["N"][name] == int((made.shift(target) != 0).sum())

    def test_the_sweep_of_means_finds_the_layer(self, planted, trials, rng):
        answers = pd.Series("one", planted.frame.index)
        difference = steering.mean_difference(
            planted.model, trials.prepared, trials.before.behavior, answers, "resid_post"
        )
        sweeps, controls = dict.fromkeys(steering.TARGETS, trials), {"random control": steering.random_neurons}
        tried, shifts = steering.sweep_means(sweeps, difference, "resid_post", [0.5, 1.0, 2.0], controls, rng)
        assert tried.candidate.unique().tolist() == ["layer 0", "layer 1", "all"]
        for target in steering.TARGETS:
            assert torch.equal(shifts[target, "all"], target * difference)
            assert not shifts[target, "layer 1"][0].any()
            assert steering.choose(tried, target, LOOSE).to_target > 0.95

    def test_all_interventions_on_test_inputs(self, planted, trials, table):
        own = planted_shift(planted, 4.0)
        made = {name: steering.Intervention("resid_post", 1, own, -own) for name in ("study", "bare")}
        rows = steering.on_test(trials, made, ["study"], table, lambda name: np.random.default_rng(len(name)))
        kinds = ["random control", "random direction control", "least correlated control"]
        counts = {(f"study: {kind}", target): 2 for kind in kinds for target in (1, -1)}
        counts |= {(name, target): 1 for name in made for target in (1, -1)}
        found = rows.groupby(["method", "target"]).size() / len(planted.frame)
        assert found.to_dict() == counts
        reached = steering.opposite(rows).groupby("method").to_target.mean()
        assert reached["study"] == reached["bare"] > 0.95
        assert max(reached[f"study: {kinds[i]}"] for i in (0, 2)) < 0.6


def planted_shift(planted, value):
    """A shift of the dimension that decides."""
    vectors = torch.zeros(SHAPE)
    vectors[planted.dimension] = value
    return vectors


class TestOutcomes:
    INDEX = pd.Index([4, 9, 11, 20, 21], name="row")
    BEFORE = pd.DataFrame({"behavior": [-1, -1, -1, 1, 0], "log_odds": [-2.0, -1.0, -3.0, 2.0, 0.0]}, index=INDEX)
    AFTER = pd.DataFrame({"behavior": [1, 0, -1, 1, 1], "log_odds": [1.0, -0.5, -4.0, 9.0, 3.0]}, index=INDEX)

    def test_what_happened_by_hand(self):
        rows = steering.opposite(steering.outcomes(self.BEFORE, self.AFTER, 1, "a"))
        assert rows.input.to_list() == [4, 9, 11]  # those that showed generalization
        assert rows[["to_target", "to_other", "wrong_way"]].to_dict("list") == {
            "to_target": [1, 0, 0],
            "to_other": [0, 1, 0],
            "wrong_way": [0, 0, 1],
        }
        other_way = steering.opposite(steering.outcomes(self.BEFORE, self.AFTER, -1, "a"))
        assert other_way.input.to_list() == [20]
        assert other_way[["to_target", "to_other", "wrong_way"]].iloc[0].to_list() == [0, 0, 1]  # the log-odds rose

    def test_rounding_moves_nothing_the_wrong_way(self):
        nearly = self.BEFORE.assign(log_odds=self.BEFORE.log_odds - 1e-5)
        assert steering.rates(self.BEFORE, nearly, 1)["wrong_way"] == 0
        assert steering.rates(self.BEFORE, nearly.assign(log_odds=-9.0), 1)["wrong_way"] == 1

    def test_the_order_of_rows_does_not_matter(self):
        shuffled = self.AFTER.iloc[[3, 0, 4, 2, 1]]
        assert steering.rates(self.BEFORE, shuffled, 1) == steering.rates(self.BEFORE, self.AFTER, 1)
        pd.testing.assert_frame_equal(
            steering.outcomes(self.BEFORE, shuffled, 1, "a"),
            steering.outcomes(self.BEFORE, self.AFTER, 1, "a"),
        )

    def test_rates_by_hand(self):
        third = pytest.approx(1 / 3)
        assert steering.rates(self.BEFORE, self.AFTER, 1) == {
            "to_target": third,
            "to_other": third,
            "wrong_way": third,
        }

    def test_outcomes_keep_every_input(self):
        rows = steering.outcomes(self.BEFORE, self.AFTER, 1, "study")
        assert rows.to_dict("list") == {
            "input": [4, 9, 11, 20, 21],
            "method": ["study"] * 5,
            "target": [1] * 5,
            "behavior_before": [-1, -1, -1, 1, 0],
            "behavior_after": [1, 0, -1, 1, 1],
            "log_odds_before": [-2.0, -1.0, -3.0, 2.0, 0.0],
            "log_odds_after": [1.0, -0.5, -4.0, 9.0, 3.0],
        }

    def test_summaries_by_hand(self, rng):
        rows = steering.outcomes(self.BEFORE, self.AFTER, 1, "study").assign(group=list("abbcc"))
        summary = steering.summarize(rows, rng, 200)
        assert summary.measure.to_list() == ["to_target", "to_other", "wrong_way"]
        assert summary.value.to_list() == pytest.approx([1 / 3] * 3)
        assert summary.n.to_list() == [3] * 3
        assert (summary.low[0], summary.high[0]) == (0, 1)  # group a reaches it, group b never
        (wide,) = steering.rates_in_columns(summary).to_dict("records")
        third = pytest.approx(1 / 3)
        expected = {"to_target": third, "low": 0, "high": 1, "to_other": third, "wrong_way": third, "n": 3}
        assert wide == {"method": "study", "target": "memorization", **expected}
        shares = steering.shares(rows).set_index("behavior")
        assert shares.share.to_dict() == pytest.approx(
            dict.fromkeys(["memorization", "generalization", "other"], 1 / 3)
        )
        assert set(shares.n) == {3}

    def test_a_target_whose_opposite_nobody_showed(self, rng):
        rows = steering.outcomes(self.BEFORE.assign(behavior=1), self.AFTER, 1, "study").assign(group="a")
        for result in (rows, rows.iloc[:0].assign(answer_memorization="", answer_generalization="")):
            summary = steering.summarize(result, rng, 10)
            assert summary.empty
            assert steering.rates_in_columns(summary).empty
            assert steering.net_effect(result, ["study"], rng, 10).empty
            assert steering.worst_groups(result, rng, 10).empty
        assert steering.worst_answers(result, rng, 10).empty
        assert steering.beside_best_controls(result).empty
        assert np.isnan(steering.rates(self.BEFORE.assign(behavior=1), self.AFTER, 1)["to_target"])

    def test_net_effect_is_the_method_minus_the_strongest_kind_of_control(self, rng):
        control = self.AFTER.assign(behavior=[0, 1, -1, 1, 1])
        after = {
            "study": [self.AFTER],
            "study: random control": [self.BEFORE, self.BEFORE],
            "study: least correlated control": [control, self.BEFORE],
            "other: random control": [self.AFTER],
            "bare": [self.AFTER],
        }
        parts = [steering.outcomes(self.BEFORE, end, 1, name) for name, ends in after.items() for end in ends]
        rows = pd.concat(parts, ignore_index=True).assign(group=lambda frame: frame.input % 2)
        rows = rows.sample(frac=1, random_state=rng)
        assert steering.best_controls(rows) == {
            ("study", 1): "study: least correlated control",
            ("other", 1): "other: random control",
        }
        beside = steering.beside_best_controls(rows).groupby("method").size().to_dict()
        assert beside == {"study": 5, "bare": 5, "study: best control": 10, "other: best control": 5}
        net = steering.net_effect(rows, ["study", "bare"], rng, 100)
        columns = ["method", "target", "control", "n"]
        assert net[columns].to_numpy().tolist() == [["study", 1, "least correlated control", 3]]
        assert net.value[0] == pytest.approx((1 + 0 + 0) / 3 - (0 + 0.5 + 0) / 3)


class TestWorst:
    """Rates of answers and groups, of 60 inputs in 20 groups."""

    @pytest.fixture
    def rows(self):
        frame = pd.DataFrame({"input": np.arange(60), "method": "study", "target": 1})
        frame["behavior_before"], frame["log_odds_before"], frame["log_odds_after"] = -1, -1.0, 1.0
        frame["behavior_after"] = np.where(frame.input < 45, 1, -1)
        frame["answer_memorization"] = np.where(frame.input < 4, "few", np.where(frame.input % 2, "odd", "even"))
        frame["answer_generalization"] = np.where(frame.input >= 40, "late", "early")
        frame["group"] = frame.input // 3
        stays = frame.assign(behavior_before=1, answer_memorization="was there before")
        return pd.concat([frame, stays], ignore_index=True)

    def test_by_answer(self, rows):
        told = steering.by_answer(rows).set_index(["kind", "answer"])
        assert told.n.to_dict() == {
            ("memorization", "even"): 28,
            ("memorization", "odd"): 28,
            ("generalization", "early"): 40,
            ("generalization", "late"): 20,
        }
        assert told.rate["generalization", "late"] == 0.25
        assert told.rate["memorization", "even"] == pytest.approx(21 / 28)

    def test_the_worst_answer(self, rows, rng):
        (told,) = steering.worst_answers(rows, rng, 200).to_dict("records")
        assert (told["kind"], told["answer"], told["value"], told["n"]) == ("generalization", "late", 0.25, 20)
        assert 0 <= told["low"] < 0.25 < told["high"] < 0.6

    def test_no_answer_has_enough_inputs(self, rows, rng):
        few = rows.assign(answer_memorization=rows.input, answer_generalization=rows.input)
        assert steering.worst_answers(few, rng, 10).empty

    def test_the_worst_groups(self, rows, rng):
        (told,) = steering.worst_groups(rows, rng, 200).to_dict("records")
        assert (told["value"], told["low"], told["n"]) == (0, 0, 20)
        assert steering.mean_of_lowest([0.5, *[1.0] * 8, 0.1]) == 0.1
        assert steering.mean_of_lowest([0.5, 0.3, *[1.0] * 18]) == pytest.approx(0.4)


class TestEffects:
    @pytest.fixture
    def shifts(self):
        return list(torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(3)))

    @torch.no_grad()
    def test_divergence_beside_whole_passes(self, setting, shifts):
        """At the last token of the cut prompt, where the prompt's own last token comes next."""
        frame = setting.frame.iloc[::6]
        inputs = steering.cut_before_answers(setting.model, frame, setting.tokenizer, 1, batch_size=7)
        assert [one.batch.rows.to_list() for one in inputs] == [
            frame.index[i : i + 7].to_list() for i in range(0, len(frame), 7)
        ]
        for one in inputs:
            expected = [[frame.input_ids[row][-1]] for row in one.batch.rows]
            assert one.batch.answers["memorization"].tolist() == expected
        found = steering.divergence(setting.model, inputs, "resid_post", [*shifts, 0 * shifts[0]], 1)
        assert found[5] == pytest.approx(0, abs=1e-10)
        for row, prompt in enumerate(frame.input_ids):
            ids = torch.tensor([list(prompt[:-1])]).long()
            batch = behavior.prompts(
                setting.model, frame.iloc[[row]].assign(input_ids=[prompt[:-1]]), setting.tokenizer
            )
            plain = setting.model(ids).logits[0, -1].double().log_softmax(-1)
            with steering.adding(setting.model, "resid_post", shifts[2], 1)(batch):
                steered = setting.model(ids).logits[0, -1].double().log_softmax(-1)
            expected = torch.nn.functional.kl_div(steered, plain, log_target=True, reduction="sum")
            assert found[2, row] == pytest.approx(float(expected), abs=1e-3)

    def test_mean_divergence_averages_draws(self, stories, shifts, rng):
        frame = stories.frame.iloc[::6]
        inputs = steering.cut_before_answers(stories.model, frame, stories.tokenizer, 1, batch_size=7)
        every = steering.divergence(stories.model, inputs, "resid_post", shifts[:3], 1)
        named = {"own": shifts[:1], "control": shifts[1:3]}
        told = steering.mean_divergence(stories.model, inputs, frame.group, "resid_post", named, 1, rng, 50)
        assert told["own"].value == pytest.approx(every[0].mean())
        assert told["control"].value == pytest.approx(every[1:].mean())
        assert told["own"].n == len(frame)

    def test_divergences_beside_those_of_one_shift(self, stories, shifts):
        """Every method and target beside its first control, drawn as often as the settings say."""
        config = AnalysisConfig(sweep_rows=10, n_tokens=1, random_draws=2, n_resamples=50)
        places = pd.MultiIndex.from_product([["resid_post"], [0, 1], range(32)], names=["site", "layer", "neuron"])
        neurons = places.to_frame(index=False).assign(r=0.5)
        made = {name: steering.Intervention("resid_post", 1, shifts[i], shifts[i + 1]) for i, name in enumerate("ab")}
        told = steering.divergences(
            stories.model,
            stories.frame,
            stories.tokenizer,
            made,
            neurons,
            config,
            lambda name: np.random.default_rng(5),
        )
        assert (told.value > 0).all()
        names = [name for one in "ab" for _ in range(2) for name in (one, f"{one}: random control")]
        assert told.method.to_list() == names
        assert told.target.to_list() == [target for _ in "ab" for target in steering.TARGETS for _ in range(2)]
        assert (told.n == 10).all()
        rows = steering.by_group(stories.frame, 10, np.random.default_rng(5))
        inputs = steering.cut_before_answers(stories.model, rows, stories.tokenizer, 1, 256)
        expected = steering.divergence(stories.model, inputs, "resid_post", [made["b"].shift(-1)], 1).mean()
        assert told[(told.method == "b") & (told.target == -1)].value.item() == pytest.approx(expected)

    def test_a_random_network_is_fitted_from_all_conflicts(self, stories):
        """Whatever it answers beforehand; the shares are those of the fitted vectors themselves."""
        config = AnalysisConfig(n_tokens=1, fit_rows=20, fit_steps=5, random_draws=1, n_resamples=50)
        conflicts = stories.frame[stories.frame.kind == "conflict"]
        train, test = conflicts.iloc[::2], conflicts.iloc[1::2]
        told = steering.on_untrained(
            stories.model,
            train,
            test,
            stories.tokenizer,
            "mlp.hook_post",
            config,
            lambda name: np.random.default_rng(5),
        )
        rows = steering.by_group(train, 20, np.random.default_rng(5))
        everywhere, settings = (
            torch.ones(2, 128, dtype=torch.bool),
            (1, 5, config.fit_learning_rate, config.norm_penalties[0]),
        )
        for target in steering.TARGETS:
            vector = steering.fit_shift(
                stories.model, prepare(stories, rows), "mlp.hook_post", everywhere, target, *settings
            )
            trials = steering.Trials(
                stories.model, prepare(stories, test), behavior.measure(stories.model, prepare(stories, test)), 1, 1
            )
            reached = (trials.run("mlp.hook_post", vector).behavior == target).mean()
            assert told[target].value == pytest.approx(reached)
            assert told[target].n == len(test)

    def test_losses(self, planted, rng):
        """Inputs with one right answer, of which a strong shift takes all and none at all nothing."""
        before = behavior.measure(planted.model, prepare(planted)).behavior
        memorized = planted.frame[before == 1].assign(kind="memorized_only", answer_generalization=None)
        inferred = planted.frame[before == -1].assign(kind="inferred_only", answer_memorization=None)
        frame = pd.concat([memorized, inferred.iloc[:-2], memorized.iloc[:0]])
        trials = steering.Trials(
            planted.model, prepare(planted, frame), behavior.measure(planted.model, prepare(planted, frame)), 1, 1
        )
        strong, none = planted_shift(planted, 9.0), planted_shift(planted, 0.0)
        made = {
            "strong": steering.Intervention("resid_post", 1, strong, -strong),
            "none": steering.Intervention("resid_post", 1, none, none),
        }
        told = steering.losses(trials, frame, made, rng, 50).set_index(["method", "target", "inputs"]).sort_index()
        assert len(told) == 8
        assert (told.plain == 1).all()
        assert (told.value == told.plain - told.steered).all()
        assert (told.value["none"] == 0).all()
        assert told.value["strong", 1].to_dict() == {"inferred_only": 1, "memorized_only": 0}
        assert told.value["strong", -1].to_dict() == {"inferred_only": 0, "memorized_only": 1}
        assert told.n["strong", 1].to_dict() == {"inferred_only": len(inferred) - 2, "memorized_only": len(memorized)}

    def test_parts_of_a_shift_add_up(self, shifts):
        parts = steering.ablated(shifts[0])
        names = ["whole", "without layer 0", "without layer 1", "layer 0 alone", "layer 1 alone"]
        assert list(parts) == names
        for layer in (0, 1):
            rest, alone = parts[f"without layer {layer}"], parts[f"layer {layer} alone"]
            assert torch.equal(rest + alone, shifts[0])
            assert not rest[layer].any()
            assert not alone[1 - layer].any()
        assert list(steering.ablated(shifts[0] * torch.tensor([[1.0], [0.0]]))) == ["whole"]

    def test_parts_and_doses_of_a_planted_shift(self, planted, rng):
        """Of a vector in both layers, only the part in the layer that decides does anything."""
        prepared = prepare(planted)
        trials = steering.Trials(planted.model, prepared, behavior.measure(planted.model, prepared), 1, 1)
        own = planted_shift(planted, 4.0)
        own[0, 3] = 0.01
        told = steering.rates_of(trials, "resid_post", steering.ablated(own), 1).set_index("part")
        layer = planted.dimension[0]
        assert told.to_target[["whole", f"layer {layer} alone", f"without layer {1 - layer}"]].min() > 0.95
        assert told.to_target[f"without layer {layer}"] < 0.05
        assert set(told.n) == {int((trials.before.behavior == -1).sum())}

        doses = steering.dose_response(trials, "resid_post", {"own": own}, 1, planted.frame.group, rng, 50)
        odds = doses[doses.measure == "log_odds"].set_index("alpha").value
        before = trials.before[trials.before.behavior == -1]
        assert odds[0.0] == pytest.approx(before.log_odds.mean(), abs=1e-4)
        assert odds.is_monotonic_increasing
        share = doses[doses.measure == "to_target"].set_index("alpha").value
        assert share[0.0] == 0
        assert share[1.0] == told.to_target["whole"]
        assert (doses[doses.measure == "wrong_way"].value == 0).all()


class TestChoose:
    TRIED = pd.DataFrame(
        {
            "target": [1, 1, 1, 1, 1, -1],
            "n": [0, 1, 2, 3, 4, 5],
            "control": [0.8, 0.0, 0.1, 0.1, 0.0, 0.5],
            "net": [0.0, 0.2, 0.6, 0.7, 0.1, 0.5],
            "preferred": [0.95, 0.2, 0.6, 0.6, 0.9, 0.5],
            "to_other": [0.0, 0.0, 0.02, 0.01, 0.5, 0.0],
            "lost": [0.0, 0.0, -0.01, 0.0, 0.0, 0.0],
        }
    )

    def chosen(self, tried, target, max_other, max_control, max_loss=0.01):
        config = AnalysisConfig(max_other=max_other, max_control=max_control, max_loss=max_loss)
        return steering.choose(tried, target, config).n

    def test_the_first_of_the_best_within_the_limits(self):
        for max_other, max_control, expected in [
            (0.03, 0.1, 2),
            (0.02, 0.1, 2),
            (0.015, 0.1, 3),
            (0.5, 0.1, 4),  # damage allowed
            (0.03, 0.8, 0),  # strong controls allowed
            (0.03, 0.05, 1),
        ]:
            assert self.chosen(self.TRIED, 1, max_other, max_control) == expected

    def test_where_none_keeps_the_limits_those_that_exceed_them_least_count(self):
        assert self.chosen(self.TRIED, -1, 0.03, 0.1) == 5
        assert self.chosen(self.TRIED.iloc[2:], 1, 0.0, 0.1) == 3
        assert self.chosen(self.TRIED.iloc[[0, 4]], 1, 0.1, 0.5) == 0  # an excess of 0.3 against one of 0.4
        assert self.chosen(self.TRIED.iloc[[0, 4]], 1, 0.3, 0.5) == 4

    def test_a_shift_that_costs_what_it_shall_keep_is_not_chosen(self):
        costly = self.TRIED.assign(lost=[0.0, 0.0, 0.3, 0.02, 0.0, 0.0])
        assert self.chosen(costly, 1, 0.03, 0.1) == 1
        assert self.chosen(costly, 1, 0.03, 0.1, max_loss=0.02) == 3
        assert self.chosen(costly.iloc[[2, 3]], 1, 0.03, 0.1) == 3

    def test_nothing_was_there_to_be_moved(self):
        nothing = self.TRIED.assign(control=np.nan, to_other=np.nan, net=np.nan, preferred=np.nan)
        sentence = "No input showed generalization, so nothing can be chosen that leads to memorization"
        with pytest.raises(InputError, match=sentence):
            steering.choose(nothing, 1, LOOSE)

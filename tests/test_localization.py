"""Statistics against scipy, gradients against captum, patching against what must come out, and a planted neuron."""

import copy

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from captum.attr import LayerGradientXActivation

from memgen import activations, behavior, localization, statistics
from memgen.activations import SITES

READ = ("resid_post", "mlp.hook_post")
N_PERMUTATIONS = 20_000  # p-values fine enough for a q-value below .05 among the planted model's 320 neurons


@pytest.fixture
def table(planted, planted_pairs, rng):
    """The planted model's table of neurons with their attribution."""
    inputs = (planted.model, planted.frame, planted_pairs, planted.tokenizer, READ)
    neurons = localization.neuron_table(localization.accumulate(*inputs), 2, rng, N_PERMUTATIONS)
    return neurons.merge(localization.attribution(*inputs), on=["site", "layer", "neuron"])


def streamed(plus, minus, groups, splits):
    result = localization.PairStatistics(plus.shape[1], groups.max() + 1)
    for part in np.split(np.arange(len(plus)), splits):
        result.update(plus[part], minus[part], groups[part])
    return result


class TestPairStatistics:
    @pytest.fixture
    def states(self, rng):
        """Pairs of one unit each that differs, does not, never varies, and varies little about a large mean."""
        plus, minus = rng.normal(size=(2, 83, 4))
        plus[:, 0] += 0.5
        plus[:, 2] = minus[:, 2] = 0.1
        plus[:, 3], minus[:, 3] = 1e5 + plus[:, 3], 1e5 + minus[:, 3]
        return plus, minus, rng.integers(9, size=83)

    def test_equal_the_two_pass_formulas_however_the_pairs_are_split(self, states, rng):
        plus, minus, groups = states
        label, members = np.repeat([1, -1], len(plus)), np.concatenate([plus, minus])
        difference = plus - minus
        splits = [
            [],
            np.arange(83),
            [1, 80],
            *(np.sort(rng.integers(84, size=rng.integers(1, 9))) for _ in range(10)),
        ]
        for split in splits:
            result = streamed(plus, minus, groups, split).result()
            assert result["nmd"] == pytest.approx(difference.mean(0), rel=1e-9, abs=1e-12)
            for unit in (0, 1, 3):
                expected = scipy.stats.pearsonr(label, members[:, unit]).statistic
                assert result["r"][unit] == pytest.approx(expected, abs=1e-9)
                effect = difference[:, unit].mean() / difference[:, unit].std(ddof=1)
                assert result["effect_size"][unit] == pytest.approx(effect, abs=1e-9)
            assert result["r"][2] == result["effect_size"][2] == 0

    def test_by_hand(self):
        plus, minus = np.array([[3.0], [5.0]]), np.array([[1.0], [1.0]])
        result = streamed(plus, minus, np.array([0, 0]), [1]).result()
        assert result["nmd"] == pytest.approx([3.0])  # differences 2 and 4
        assert result["effect_size"] == pytest.approx([3 / np.sqrt(2)])
        assert result["r"] == pytest.approx([6 / np.sqrt(4 * 11)])  # members 3 5 1 1 have the squares 11 about 2.5

    def test_group_sums_and_pairs(self, states):
        plus, minus, groups = states
        result = streamed(plus, minus, groups, [10, 50])
        assert result.n_pairs == 83
        for group in range(9):
            assert result.group_sums[group] == pytest.approx((plus - minus)[groups == group].sum(0), abs=1e-8)
            assert result.group_pairs[group] == (groups == group).sum()

    def test_one_pair_is_not_enough(self):
        few = localization.PairStatistics(2, 1)
        few.update(np.ones((1, 2)), np.zeros((1, 2)), np.zeros(1, dtype=int))
        few.update(np.ones((0, 2)), np.zeros((0, 2)), np.zeros(0, dtype=int))
        with pytest.raises(ValueError, match="need 2 pairs or more, not 1"):
            few.result()


def test_states_are_those_of_each_prompt_alone(setting):
    """Mixed lengths in batches of seven against one prompt at a time without padding."""
    frame = setting.frame.copy()
    frame["input_ids"] = [ids[np.r_[0, 1 + i % 3 : len(ids)]] for i, ids in enumerate(frame.input_ids)]
    frame = frame.iloc[:20]
    rows, parts = zip(
        *localization.read_states(setting.model, frame, setting.tokenizer, SITES, batch_size=7), strict=True
    )
    assert [i for part in rows for i in part] == list(frame.index)
    for i, ids in enumerate(frame.input_ids):
        with torch.no_grad(), activations.record(setting.model, SITES) as store:
            setting.model(torch.tensor(ids)[None].long())
        for site in SITES:
            alone = np.stack([layer[0, -1].numpy() for layer in store[site]])
            assert parts[i // 7][site][i % 7] == pytest.approx(alone, abs=1e-4)


def test_accumulate_joins_states_pairs_and_groups(setting):
    pairs = setting.pairs.sample(frac=1, random_state=np.random.default_rng(1))
    accumulated = localization.accumulate(setting.model, setting.frame, pairs, setting.tokenizer, READ, batch_size=5)
    states = list(localization.read_states(setting.model, setting.frame, setting.tokenizer, READ, batch_size=500))
    groups = sorted(set(pairs.group))
    for site in READ:
        flat = states[0][1][site].reshape(len(setting.frame), -1)
        differences = flat[pairs.memorization] - flat[pairs.generalization]
        assert accumulated[site].result()["nmd"] == pytest.approx(differences.mean(0), abs=1e-4)
        own = differences[pairs.group.to_numpy() == groups[2]]
        assert accumulated[site].group_sums[2] == pytest.approx(own.sum(0), abs=1e-3)


def test_the_table_names_each_neuron_and_takes_tests_from_the_statistics_module(planted, planted_pairs):
    accumulated = localization.accumulate(planted.model, planted.frame, planted_pairs, planted.tokenizer, READ)
    table = localization.neuron_table(accumulated, 2, np.random.default_rng(3), 500)
    assert table.groupby(["site", "layer"]).neuron.agg(list).map(len).to_dict() == {
        ("resid_post", 0): 32, ("resid_post", 1): 32, ("mlp.hook_post", 0): 128, ("mlp.hook_post", 1): 128,
    }  # fmt: skip
    row = table[(table.site == "mlp.hook_post") & (table.layer == 1) & (table.neuron == 3)].iloc[0]
    assert row.nmd == accumulated["mlp.hook_post"].result()["nmd"][128 + 3]
    rng = np.random.default_rng(3)
    p = [statistics.sign_flip_p(accumulated[site].group_sums, np.arange(30), rng, 500) for site in READ]
    assert table.p_value.to_numpy() == pytest.approx(np.concatenate(p))
    assert table.q_value.to_numpy() == pytest.approx(scipy.stats.false_discovery_control(np.concatenate(p)))


class TestPlanted:
    """What was written into the model by hand comes first."""

    @pytest.mark.parametrize("site", READ)
    def test_first_in_every_ranking(self, planted, table, site):
        own = table[table.site == site]
        where = planted.dimension if site == "resid_post" else planted.neuron
        for measure in ("nmd", "r", "effect_size", "attribution"):
            first = own.loc[own[measure].abs().idxmax()]
            assert (first.layer, first.neuron) == where, measure
            assert first[measure] > 0  # it speaks for memorization
            assert first.p_value == 1 / (1 + N_PERMUTATIONS)
            assert first.q_value < 0.05

    def test_patching_finds_the_mlp_of_the_second_layer(self, planted, planted_pairs, rng):
        sites = ("resid_post", "attn_out", "mlp_out")
        patched = localization.patch_layers(planted.model, planted.frame, planted_pairs, planted.tokenizer, sites)
        summary = localization.summarize_patching(patched, rng, n_resamples=50)
        shares = summary.set_index(["site", "layer", "direction"]).value
        assert len(shares) == 3 * 2 * 2
        for direction in ("memorization", "generalization"):
            assert shares["attn_out", 0, direction] == shares["attn_out", 1, direction] == 0
            assert shares["mlp_out", 0, direction] == 0
            assert shares["mlp_out", 1, direction] > 0.95
            assert shares["resid_post", 0, direction] == shares["resid_post", 1, direction] == 1
        assert (summary.n == len(planted_pairs)).all()

    def test_depth(self, planted, planted_pairs, rng):
        accumulated = localization.accumulate(planted.model, planted.frame, planted_pairs, planted.tokenizer, READ)
        depth = localization.depth_profile(accumulated, 2, rng, 400).set_index(["site", "layer", "measure"])
        nmd = accumulated["resid_post"].result()["nmd"].reshape(2, -1)
        for layer in (0, 1):
            pairs, chance = (
                depth.loc[("resid_post", layer, "pairs")],
                depth.loc[("resid_post", layer, "chance")],
            )
            assert pairs.value == pytest.approx(np.abs(nmd[layer]).mean())
            assert pairs.low < pairs.value < pairs.high
            assert chance.high < pairs.low


class TestShuffled:
    """The members of each pair change places at random: nothing is left to be found."""

    N_SHUFFLES = 40

    @pytest.fixture
    def states(self, planted, planted_pairs):
        flat = []
        for member in ("memorization", "generalization"):
            frame = planted.frame.loc[planted_pairs[member]]
            ((_, one),) = localization.read_states(planted.model, frame, planted.tokenizer, READ)
            flat.append(np.concatenate([one[site].reshape(len(frame), -1) for site in READ], 1))
        return np.stack(flat), np.unique(planted_pairs.group, return_inverse=True)[1]

    def tables(self, states):
        (plus, minus), groups = states
        for seed in range(self.N_SHUFFLES):
            rng = np.random.default_rng(seed)
            swap = rng.integers(2, size=(len(plus), 1)).astype(bool)
            one, other = np.where(swap, minus, plus), np.where(swap, plus, minus)
            own = streamed(one, other, groups, [])
            yield own, localization.neuron_table({"all": own}, 1, rng, 2000)

    def test_error_rates_stay_at_the_stated_level(self, states):
        tables = [table for _, table in self.tables(states)]
        # With no true difference every discovery is false, so runs with one are about 2 of 40.
        false_discoveries = sum((table.q_value < 0.05).any() for table in tables)
        assert false_discoveries <= scipy.stats.binom.ppf(0.99, self.N_SHUFFLES, 0.05)
        assert 0.02 < np.mean([(table.p_value < 0.05).mean() for table in tables]) < 0.08

    def test_the_same_procedure_finds_what_is_there(self, states, rng):
        (plus, minus), groups = states
        table = localization.neuron_table({"all": streamed(plus, minus, groups, [])}, 1, rng, 2000)
        assert (table.q_value < 0.05).mean() > 0.5

    def test_the_depth_profile_lies_within_chance(self, states):
        outside = 0
        for own, _ in self.tables(states):
            depth = localization.depth_profile({"all": own}, 1, np.random.default_rng(0), 200).set_index("measure")
            outside += not depth.low["chance"] <= depth.value["pairs"] <= depth.high["chance"]
        assert outside <= scipy.stats.binom.ppf(0.99, self.N_SHUFFLES, 0.05)


class TestAttribution:
    def test_gradients_equal_captum(self, stories):
        """Gradient times activation at the last token, by captum's own hooks and passes."""
        model, frame = stories.model, stories.frame[stories.frame.kind == "conflict"]
        ids = torch.tensor(np.stack(frame.input_ids)).long()
        remembered, inferred = (
            torch.tensor(stories.tokenizer.convert_tokens_to_ids(frame[f"answer_{name}"].to_list()))
            for name in ("memorization", "generalization")
        )
        row = torch.arange(len(ids))

        def log_odds(tokens):
            logits = model(tokens).logits[:, -1]
            return logits[row, remembered] - logits[row, inferred]

        ((index, states),) = localization.log_odds_gradients(model, frame, stories.tokenizer, READ)
        assert index.equals(frame.index)
        for layer, block in enumerate(activations.blocks(model)):
            down = block.mlp.c_proj if hasattr(block.mlp, "c_proj") else block.mlp.down_proj
            for site, module, at_input in (("resid_post", block, False), ("mlp.hook_post", down, True)):
                theirs = LayerGradientXActivation(log_odds, module).attribute(ids, attribute_to_layer_input=at_input)
                theirs = theirs[0] if isinstance(theirs, tuple) else theirs
                activation, gradient = states[site]
                product = activation[:, layer] * gradient[:, layer]
                assert product == pytest.approx(theirs[:, -1].detach().numpy(), abs=1e-4)
                assert np.abs(product).max() > 0.1

    def test_gradients_of_long_answers_equal_finite_differences(self, sums, rng):
        """The log-odds of an answer of one token against one of four, moved along random directions."""
        frame = sums.frame[sums.frame.kind == "conflict"].iloc[:6]
        for answers in (frame, frame.assign(answer_memorization="12")):  # one pass for both answers, or two
            ((_, states),) = localization.log_odds_gradients(sums.model, answers, sums.tokenizer, READ)
            prepared = behavior.prepare(sums.model, answers, sums.tokenizer)
            for site in READ:
                for layer in (0, 1):
                    direction = torch.from_numpy(rng.standard_normal(activations.width(sums.model, site))).float()
                    direction /= direction.norm()
                    up, down = (moved_log_odds(sums.model, prepared, site, layer, s * direction) for s in (0.02, -0.02))
                    slope = states[site][1][:, layer] @ direction.numpy()
                    assert slope == pytest.approx((up - down) / 0.04, rel=0.05, abs=0.01)

    def test_it_is_the_mean_over_pairs_of_difference_times_mean_gradient(self, setting):
        pairs = setting.pairs
        inputs = (setting.model, setting.frame, pairs, setting.tokenizer, READ)
        table = localization.attribution(*inputs, batch_size=5)
        conflicts = setting.frame[setting.frame.kind == "conflict"]
        ((index, states),) = localization.log_odds_gradients(setting.model, conflicts, setting.tokenizer, READ, 500)
        one, other = index.get_indexer(pairs.memorization), index.get_indexer(pairs.generalization)
        for site in READ:
            state, gradient = states[site]
            expected = ((state[one] - state[other]) * (gradient[one] + gradient[other]) / 2).mean(0)
            own = table[table.site == site]
            assert own.attribution.to_numpy() == pytest.approx(expected.ravel(), abs=1e-4)
            assert own.layer.to_list() == list(np.repeat([0, 1], expected.shape[1]))
            assert own.neuron.to_list() == 2 * list(range(expected.shape[1]))

    def test_it_is_the_exact_effect_where_the_readout_is_linear(self, stories):
        """Without the final norm the log-odds are linear in the last residual stream."""
        model = copy.deepcopy(stories.model)
        if hasattr(model, "transformer"):
            model.transformer.ln_f = torch.nn.Identity()
        else:
            model.model.norm = torch.nn.Identity()
        inputs = (model, stories.frame, stories.pairs, stories.tokenizer, ["resid_post"])
        table = localization.attribution(*inputs)
        last = table[table.layer == 1].attribution
        patched = localization.patch_layers(*inputs)
        last_layer = patched[patched.layer == 1]
        effect = (last_layer.log_odds_after - last_layer.log_odds_before) * last_layer.target
        assert last.sum() == pytest.approx(effect.mean(), abs=1e-4)
        assert abs(last.sum()) > 0.1
        conflicts = stories.frame.loc[stories.pairs.generalization]
        ((_, minus),) = localization.read_states(model, conflicts, stories.tokenizer, ["resid_post"])
        ((_, plus),) = localization.read_states(
            model, stories.frame.loc[stories.pairs.memorization], stories.tokenizer, ["resid_post"]
        )
        prepared = behavior.prepare(model, conflicts.reset_index(drop=True), stories.tokenizer)
        before = behavior.measure(model, prepared).log_odds.to_numpy()
        for neuron in (0, 17):
            shift = torch.zeros(len(before), 32)
            shift[:, neuron] = torch.from_numpy(plus["resid_post"][:, 1, neuron] - minus["resid_post"][:, 1, neuron])
            after = moved_log_odds(model, prepared, "resid_post", 1, shift[:, None])
            assert last.iloc[neuron] == pytest.approx((after - before).mean(), abs=1e-4)


def moved_log_odds(model, prepared, site, layer, shift):
    """The log-odds when `shift` is added at each prompt's last token."""

    def context(batch):
        position = torch.arange(batch.input_ids.shape[1])
        where = (position[None] == batch.prompt_length[:, None] - 1)[..., None]
        return activations.edit(model, [activations.Edit(site, layer, lambda h: h + where * shift)])

    return behavior.measure(model, prepared, context).log_odds.to_numpy()


class TestPatching:
    SITES = ("resid_pre", "resid_post", "attn_out", "mlp_out", "mlp.hook_post")

    def test_the_last_residual_stream_gives_the_source(self, stories):
        """It decides the next token alone, and the answers are single tokens."""
        inputs = (stories.model, stories.frame, stories.pairs.iloc[:12], stories.tokenizer, ["resid_post"])
        patched = localization.patch_layers(*inputs, batch_size=5)
        last = patched[patched.layer == 1]
        assert last.log_odds_after.to_numpy() == pytest.approx(last.log_odds_source.to_numpy(), abs=1e-4)
        assert (last.log_odds_before - last.log_odds_source).abs().mean() > 0.1
        # The first layer's is not all that the rest reads, so there it cannot be exact.
        assert not np.allclose(patched[patched.layer == 0].log_odds_after, patched[patched.layer == 0].log_odds_source)

    def test_rows_are_in_the_order_of_the_pairs(self, setting):
        pairs = setting.pairs.iloc[11::-1]
        inputs = (setting.model, setting.frame, pairs, setting.tokenizer, ["attn_out"])
        patched = localization.patch_layers(*inputs, batch_size=5)
        plain = behavior.measure(
            setting.model, behavior.prepare(setting.model, setting.frame, setting.tokenizer)
        ).log_odds
        assert len(patched) == len(pairs) * 2 * 2
        for (layer, target), own in patched.groupby(["layer", "target"]):
            source, receiver = ("memorization", "generalization")[::target]
            assert own.group.to_list() == pairs.group.to_list(), layer
            assert own.log_odds_before.to_numpy() == pytest.approx(plain[pairs[receiver]].to_numpy(), abs=1e-4)
            assert own.log_odds_source.to_numpy() == pytest.approx(plain[pairs[source]].to_numpy(), abs=1e-4)
            assert (own.log_odds_after - own.log_odds_before).abs().mean() > 0.01

    def test_an_inputs_own_state_changes_nothing(self, setting):
        pairs = setting.pairs.assign(generalization=setting.pairs.memorization).iloc[:8]
        inputs = (setting.model, setting.frame, pairs, setting.tokenizer, self.SITES)
        patched = localization.patch_layers(*inputs)
        assert patched.log_odds_after.to_numpy() == pytest.approx(patched.log_odds_before.to_numpy(), abs=1e-4)
        assert set(patched.site) == set(self.SITES)

    def test_the_summary_is_the_share_that_shows_the_target(self, rng):
        patched = pd.DataFrame(
            {
                "site": "attn_out",
                "layer": 3,
                "target": [1, 1, 1, 1, -1, -1],
                "group": list("aabbab"),
                "behavior_after": [1, 1, 0, -1, -1, 1],
            }
        )
        summary = localization.summarize_patching(patched, rng, 100).set_index("direction")
        assert summary.value.to_dict() == {"memorization": 0.5, "generalization": 0.5}
        assert summary.n.to_dict() == {"memorization": 4, "generalization": 2}
        assert (summary.low["memorization"], summary.high["memorization"]) == (
            0,
            1,
        )  # group a always, group b never


def test_ranked_sorts_within_a_layer_and_averages_neighbours():
    nmd = [3.0, -1.0, 2.0, 0.0, 10.0, 20.0, 40.0, 30.0]
    table = pd.DataFrame({"site": "resid_post", "layer": np.repeat([0, 1], 4), "neuron": 0, "nmd": nmd})
    assert localization.ranked(table).nmd.to_list() == [-1, 0, 2, 3, 10, 20, 30, 40]
    halved = localization.ranked(table, max_columns=2)
    assert halved[["layer", "rank", "nmd"]].to_numpy().tolist() == [
        [0, 0, -0.5],
        [0, 1, 2.5],
        [1, 0, 15],
        [1, 1, 35],
    ]


def test_agreement_of_two_rankings():
    values = [1.0, -2.0, 3.0, -4.0]
    table = pd.DataFrame({"site": "resid_post", "a": values, "b": [-v for v in values], "c": values[::-1]})
    same = localization.agreement(table, "a", "b", share=0.5).iloc[0]
    assert (same.spearman, same.overlap, same.neurons) == (pytest.approx(1), 1, 4)
    opposite = localization.agreement(table, "a", "c", share=0.5).iloc[0]
    assert (opposite.spearman, opposite.overlap) == (pytest.approx(-1), 0)

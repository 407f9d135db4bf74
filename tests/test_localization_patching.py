"""Exact sets of neurons: nothing, everything, exactly these; a planted neuron alone; and what ablation leaves."""

import numpy as np
import pandas as pd
import pytest
import torch

from memgen import activations, behavior, localization
from memgen.localization import Units, patching

READ = ("resid_post", "mlp.hook_post")
D = {"resid_post": 32, "mlp.hook_post": 128}


def of(site, layer=None, neurons=slice(None)):
    """Units of one layer, or none."""
    chosen = np.zeros((2, D[site]), dtype=bool)
    if layer is not None:
        chosen[layer, neurons] = True
    return Units(site, chosen, {"name": f"{layer}"})


@pytest.fixture
def inputs(setting):
    return setting.model, setting.frame, setting.pairs.iloc[:12], setting.tokenizer


class TestReplacing:
    @pytest.mark.parametrize("site", READ)
    def test_exactly_these_neurons_at_the_last_token(self, setting, site):
        """A value that no activation has."""
        prepared = behavior.prepare(setting.model, setting.frame.reset_index(drop=True), setting.tokenizer, 50)
        chosen = np.zeros((2, D[site]), dtype=bool)
        chosen[0, [3, 30]] = chosen[1, 7] = True
        states = torch.full((len(setting.frame), 2, D[site]), 1e3)
        for batch in prepared[:2]:
            kept = {}
            for name, units in (("plain", Units(site, ~chosen & chosen)), ("edited", Units(site, chosen))):
                context = localization.replacing(setting.model, units, states)
                with torch.no_grad(), context(batch), activations.record(setting.model, [site]) as store:
                    behavior.run(setting.model, batch)
                kept[name] = store[site]
            row = torch.arange(len(batch.rows))
            for layer in (0, 1):
                changed = kept["edited"][layer] == 1e3
                expected = torch.zeros_like(changed)
                expected[row[:, None], (batch.prompt_length - 1)[:, None], np.flatnonzero(chosen[layer])[None]] = True
                assert torch.equal(changed, expected)
            assert torch.equal(kept["edited"][0][~expected.any(-1)], kept["plain"][0][~expected.any(-1)])

    def test_wrong_shapes_are_named(self, planted):
        with pytest.raises(ValueError, match=r"resid_post must be \[2, 32\], not \[2, 32\] and \[2, 128\]"):
            localization.replacing(planted.model, of("resid_post", 0), torch.zeros(5, 2, 128))
        with pytest.raises(ValueError, match=r"not \[1, 32\]"):
            localization.replacing(planted.model, Units("resid_post", np.ones((1, 32), bool)), torch.zeros(5, 2, 32))


class TestPatchUnits:
    @pytest.mark.parametrize("site", READ)
    def test_none_changes_nothing(self, inputs, site):
        patched = localization.patch_units(*inputs, [of(site)])
        assert (patched.log_odds_after == patched.log_odds_before).all()

    def test_all_of_the_last_residual_stream_turns_all(self, stories):
        inputs = (stories.model, stories.frame, stories.pairs, stories.tokenizer)
        patched = localization.patch_units(*inputs, [of("resid_post", 1)], batch_size=7)
        assert patched.log_odds_after.to_numpy() == pytest.approx(patched.log_odds_source.to_numpy(), abs=1e-4)
        assert (patched.log_odds_before - patched.log_odds_source).abs().mean() > 0.1

    def test_whole_layers_are_those_of_patch_layers(self, inputs):
        layers = localization.patch_layers(*inputs, READ)
        for site in READ:
            for layer in (0, 1):
                own = layers[(layers.site == site) & (layers.layer == layer)]
                units = localization.patch_units(*inputs, [of(site, layer)])
                assert own.log_odds_after.to_numpy() == pytest.approx(units.log_odds_after.to_numpy(), abs=1e-6)

    def test_several_layers_at_once(self, stories):
        """With the last layer's residual stream in the set, what happened before it does not matter."""
        inputs = (stories.model, stories.frame, stories.pairs.iloc[:8], stories.tokenizer)
        both = Units("resid_post", np.ones((2, 32), dtype=bool))
        patched = localization.patch_units(*inputs, [both, of("resid_post", 1), of("resid_post", 0)])
        all_layers, last, first = np.split(patched.log_odds_after.to_numpy().reshape(2, 3, 8), 3, axis=1)
        assert all_layers == pytest.approx(last, abs=1e-4)
        assert not np.allclose(first, last, atol=1e-2)

    def test_the_kept_tokens_before_the_last_change_nothing(self, inputs, monkeypatch):
        sets = [of("mlp.hook_post", 0, [1, 5, 90]), of("resid_post", 1, slice(0, 9))]
        kept = localization.patch_units(*inputs, sets, batch_size=5)

        def whole(model, frame, tokenizer, batch_size):
            return behavior.prepare(model, frame.reset_index(drop=True), tokenizer, batch_size)

        monkeypatch.setattr(patching, "prepare", whole)
        anew = localization.patch_units(*inputs, sets)
        order = ["name", "target", "pair"]
        kept, anew = (one.sort_values(order, ignore_index=True) for one in (kept, anew))
        pd.testing.assert_frame_equal(kept, anew, atol=1e-3, rtol=1e-3)
        assert (kept.log_odds_after - kept.log_odds_before).abs().max() > 0.01

    def test_prompts_of_several_lengths(self, setting):
        frame = setting.frame.copy()
        frame["input_ids"] = [ids[np.r_[0, 1 + i % 3 : len(ids)]] for i, ids in enumerate(frame.input_ids)]
        pairs = setting.pairs.iloc[:9]
        patched = localization.patch_units(setting.model, frame, pairs, setting.tokenizer, [of("mlp.hook_post", 1)])
        single = [
            localization.patch_units(setting.model, frame, one, setting.tokenizer, [of("mlp.hook_post", 1)])
            for one in (pairs.iloc[i : i + 1] for i in range(9))
        ]
        expected = pd.concat(single).sort_values("target", ascending=False, kind="stable").log_odds_after.to_numpy()
        assert patched.log_odds_after.to_numpy() == pytest.approx(expected, abs=1e-3)

    @pytest.mark.parametrize("site", READ)
    def test_the_planted_neuron_alone_turns_all_and_the_bottom_nothing(self, planted, planted_pairs, rng, site):
        inputs = (planted.model, planted.frame, planted_pairs, planted.tokenizer)
        table = localization.neuron_table(localization.accumulate(*inputs, READ), 2, rng, 100)
        table = table.merge(localization.attribution(*inputs, READ), on=["site", "layer", "neuron"])
        one = 1 / (2 * D[site])
        sets = localization.sets_of_units(table, [site], [one, 1.0], rng)
        where = planted.dimension if site == "resid_post" else planted.neuron
        assert all(units.chosen[where] for units in sets if units.about["end"] == "top")
        patched = localization.patch_units(*inputs, sets)
        summary = localization.summarize_units(patched, rng, 50)
        values = summary.set_index(["ranking", "end", "share", "measure", "direction"]).value
        for ranking in localization.RANKINGS:
            for direction in ("memorization", "generalization"):
                assert values[ranking, "top", one, "turned", direction] > 0.9
                assert values[ranking, "top", one, "recovered", direction] > 0.9
                assert values[ranking, "bottom", one, "turned", direction] == 0
                assert abs(values[ranking, "bottom", one, "recovered", direction]) < 0.1
        halves = localization.units_for_half(patched, {site: 2 * D[site]}, rng, 50)
        assert (halves.value < 1).all()  # less than the one neuron, on the line from none
        assert (halves.n == 2 * len(planted_pairs)).all()


class TestSets:
    @pytest.fixture
    def table(self, rng):
        values = rng.permutation(40) - 17.3
        where = {"layer": np.repeat([0, 1], 20), "neuron": np.tile(np.arange(20), 2)}
        table = pd.DataFrame({"site": "a", **where, "r": values, "nmd": values**2, "attribution": -values})
        return pd.concat([table.assign(site="b", r=0.0), table], ignore_index=True)

    def test_top_and_bottom_are_those_of_the_absolute_values(self, table):
        own = table[table.site == "a"].assign(size=table.r.abs())
        for end, expected in (("top", own.nlargest(4, "size")), ("bottom", own.nsmallest(4, "size"))):
            chosen = localization.choose_units(table.sample(frac=1, random_state=1), "a", "r", end, 0.1)
            assert {tuple(at) for at in np.argwhere(chosen)} == set(zip(expected.layer, expected.neuron, strict=True))

    def test_sizes_and_names(self, table, rng):
        sets = localization.sets_of_units(table, ["a", "b"], [0.1, 0.5], rng, n_random=2)
        assert len(sets) == 2 * 2 * (3 * 2 + 2)
        for units in sets:
            assert units.chosen.shape == (2, 20)
            assert units.chosen.sum() == 40 * units.about["share"]
        drawn = [units.chosen for units in sets if units.about["end"] == "random" and units.about["share"] == 0.5]
        assert len({one.tobytes() for one in drawn}) == len(drawn)

    def test_an_unknown_end_is_named(self, table):
        for end in ("middle", "random"):
            with pytest.raises(ValueError, match=f"not '{end}'"):
                localization.choose_units(table, "a", "r", end, 0.1)


def rows_of(turned, shares, targets=(1,), groups="ab"):
    """Patched rows: `turned[share][pair]`."""
    rows = []
    for target in targets:
        for share, own in zip(shares, turned, strict=True):
            for pair, value in enumerate(own):
                about = {"site": "a", "ranking": "r", "end": "top", "share": share, "draw": 0, "target": target}
                after = target if value else -target
                rows.append(about | {"pair": pair, "group": groups[pair], "behavior_after": after})
    return pd.DataFrame(rows)


class TestSummaries:
    def test_by_hand_a_mean_over_draws(self, rng):
        about = {"site": "a", "ranking": "random", "end": "random", "share": 0.1, "target": -1, "pair": [0, 0, 1, 1]}
        patched = pd.DataFrame(
            about | {"draw": [0, 1, 0, 1], "group": list("aabb"), "behavior_after": [-1, 1, 0, 1]},
        ).assign(log_odds_before=2.0, log_odds_source=[-2.0, -2.0, -4.0, -4.0], log_odds_after=[0.0, 2.0, 1.0, 2.0])
        summary = localization.summarize_units(patched, rng, 200).set_index("measure")
        assert summary.value["turned"] == 0.25
        assert summary.value["recovered"] == pytest.approx((1 + 0.5) / (4 + 6))
        assert (summary.low["recovered"], summary.high["recovered"]) == pytest.approx((0.5 / 6, 1 / 4))
        assert (summary.n == 2).all()
        assert (summary.direction == "generalization").all()

    def test_one_group_has_no_interval(self, rng):
        patched = rows_of([[1, 0]], [0.1], groups="aa").assign(
            log_odds_before=0.0, log_odds_after=1.0, log_odds_source=2.0
        )
        summary = localization.summarize_units(patched, rng, 20)
        assert summary.value.to_list() == [0.5, 0.5]
        assert summary[["low", "high"]].isna().all(axis=None)

    def test_sets_that_become_numbers(self):
        """A tenth by every ranking; more sizes by attribution only, and of its top."""
        ends = [("nmd", "top"), ("nmd", "bottom"), ("attribution", "top"), ("attribution", "bottom"), ("random",) * 2]
        effects = pd.DataFrame([(*end, share) for end in ends for share in (0.01, 0.05, 0.1, 0.2, 1.0)])
        effects.columns = ["ranking", "end", "share"]
        told = localization.main_units(effects)
        assert dict(zip(told["size"], told.which, strict=True)) == {
            "top10_nmd": "top by |nmd|",
            "bottom10_nmd": "bottom by |nmd|",
            "top1": "top by |attribution|",
            "top5": "top by |attribution|",
            "top10": "top by |attribution|",
            "all": "top by |attribution|",
            "bottom10": "bottom by |attribution|",
            "random10": "random",
        }
        assert len(told) == 8
        assert list(effects) == ["ranking", "end", "share"]

    @pytest.mark.parametrize(
        ("turned", "neurons"),
        [
            ([[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]], 50),  # half at the second set
            ([[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]], 50 + 50 * 0.25),  # half of three is 1.5
            ([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]], 5),  # on the line from none to the first
        ],
    )
    def test_neurons_for_half(self, rng, turned, neurons):
        patched = rows_of(turned, [0.1, 0.5, 1.0], targets=(1, -1), groups="abcd")
        (half,) = localization.units_for_half(patched, {"a": 100}, rng, 100).itertuples()
        assert half.value == pytest.approx(neurons)
        assert half.low <= half.value <= half.high
        assert half.n == 8

    def test_where_nothing_turns_there_is_no_half(self, rng):
        (half,) = localization.units_for_half(rows_of([[0, 0]], [1.0]), {"a": 100}, rng, 10).itertuples()
        assert np.isnan([half.value, half.low, half.high]).all()
        assert half.n == 0


class TestAblation:
    def test_means_are_those_of_the_states(self, setting):
        means = localization.mean_states(setting.model, setting.frame, setting.tokenizer, READ, batch_size=13)
        states = next(localization.read_states(setting.model, setting.frame, setting.tokenizer, READ, 10_000))[1]
        for site in READ:
            assert means[site] == pytest.approx(states[site].mean(0), abs=1e-4)

    def test_none_leaves_the_accuracy_of_each_kind(self, setting, rng):
        means = localization.mean_states(setting.model, setting.frame, setting.tokenizer, READ)
        units = Units("mlp.hook_post", np.zeros((2, 128), dtype=bool), {"ranking": "none"})
        ablated = localization.ablate(setting.model, setting.frame, setting.tokenizer, means, [units], batch_size=31)
        shares = localization.summarize_ablation(ablated, rng, 20).set_index("kind").value
        measured = behavior.measure(
            setting.model, behavior.prepare(setting.model, setting.frame, setting.tokenizer)
        ).behavior
        for kind in ("memorized_only", "inferred_only"):
            assert shares[kind] == pytest.approx(behavior.accuracy(setting.frame, measured, kind), abs=0.02)
        assert shares["conflict"] == 1

    def test_without_the_planted_neuron_all_inputs_are_alike(self, planted, rng):
        """At most one member of each pair can keep its behaviour; without another neuron all do."""
        means = localization.mean_states(planted.model, planted.frame, planted.tokenizer, ["mlp.hook_post"])
        sets = []
        for name, neuron in (("planted", planted.neuron), ("other", (0, 5))):
            chosen = np.zeros((2, 128), dtype=bool)
            chosen[neuron] = True
            sets.append(Units("mlp.hook_post", chosen, {"ranking": name}))
        ablated = localization.ablate(planted.model, planted.frame, planted.tokenizer, means, sets)
        shares = localization.summarize_ablation(ablated, rng, 20).set_index("ranking").value
        assert shares["planted"] <= 0.5
        assert shares["other"] == 1

    def test_a_random_set_is_a_mean_over_its_draws(self, rng):
        about = {"ranking": "random", "draw": [0, 1, 0, 1], "kind": "conflict", "input": [4, 4, 9, 9]}
        ablated = pd.DataFrame(about | {"group": list("aabb"), "kept": [1.0, 0.0, 1.0, 1.0]})
        (row,) = localization.summarize_ablation(ablated, rng, 100).itertuples()
        assert (row.value, row.low, row.high, row.n) == (0.75, 0.5, 1.0, 2)

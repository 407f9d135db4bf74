"""Exact sets of neurons: nothing, everything, exactly these, and a planted neuron alone."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from memgen import activations, behavior, intervals
from memgen.localization import patching
from memgen.localization.patching import HEADS, LAST, patch, prompt_parts, replacing, whole_layers
from memgen.localization.rankings import RANKINGS, neuron_sets

SITES = ("resid_post", "mlp.hook_post")
D = {"resid_post": 32, "mlp.hook_post": 128}


def set_of(site, layer=None, neurons=slice(None)):
    """A set of neurons of one layer, or an empty set."""
    chosen = np.zeros((2, D[site]), dtype=bool)
    if layer is not None:
        chosen[layer, neurons] = True
    return {"site": site, "name": f"{layer}", "chosen": chosen}


def patch_layers(subject, frame, pairs, sites, parts=LAST):
    """Patches of whole layers."""
    return patch(subject, frame, pairs, whole_layers(subject, sites), parts)


def patch_heads(subject, frame, pairs, parts):
    return patch(subject, frame, pairs, whole_layers(subject, [HEADS], by_head=True), parts)


def plain_log_odds(subject, frame, pairs, patched, role=1):
    """The log-odds, without a patch, of the receiver (role 1) or the source (role 0) of each row."""
    plain = behavior.measure(subject, behavior.prepare(subject, frame)).log_odds
    members = [pairs[patching.ROLES[row.target][role]][row.pair] for row in patched.itertuples()]
    return plain[members].to_numpy()


def sets_of(*sets):
    return pd.DataFrame(list(sets))


class TestReplacing:
    @pytest.mark.parametrize("site", SITES)
    def test_exactly_these_neurons_at_the_last_token(self, setting, site):
        """A value that no activation has."""
        subject = setting.subject
        chosen = np.zeros((2, D[site]), dtype=bool)
        chosen[0, [3, 30]] = chosen[1, 7] = True
        states = [torch.full((), 1e3)] * 2  # one a layer
        for batch in behavior.prepare(
            dataclasses.replace(subject, batch_size=50), setting.frame.reset_index(drop=True)
        )[:2]:
            recorded = {}
            for name, neurons in (("plain", np.zeros_like(chosen)), ("edited", chosen)):
                context = replacing(subject, site, neurons, LAST["last"], [states])
                with torch.no_grad(), context(batch), activations.record(subject.model, [site]) as store:
                    behavior.run(subject, batch)
                recorded[name] = store[site]
            row = torch.arange(len(batch.rows))
            for layer in (0, 1):
                changed = recorded["edited"][layer] == 1e3
                expected = torch.zeros_like(changed)
                expected[row[:, None], (batch.prompt_length - 1)[:, None], np.flatnonzero(chosen[layer])[None]] = True
                assert torch.equal(changed, expected)
            untouched = ~(recorded["edited"][0] == 1e3).any(-1)
            assert torch.equal(recorded["edited"][0][untouched], recorded["plain"][0][untouched])

    def test_a_wrong_shape_is_named(self, planted):
        with pytest.raises(ValueError, match=r"Neurons at resid_post must be \[2, 32\], not \[1, 32\]"):
            replacing(planted.subject, "resid_post", np.ones((1, 32), bool), LAST["last"], [])


class TestPatch:
    @pytest.fixture
    def inputs(self, setting):
        return setting.subject, setting.frame, setting.pairs.iloc[:12]

    @pytest.mark.parametrize("site", SITES)
    def test_an_empty_set_changes_nothing(self, inputs, site):
        patched = patch(*inputs, sets_of(set_of(site)))
        assert patched.log_odds_after.to_numpy() == pytest.approx(plain_log_odds(*inputs, patched), abs=1e-4)

    def test_an_inputs_own_state_changes_nothing(self, setting):
        pairs = setting.pairs.assign(generalization=setting.pairs.memorization).iloc[:8]
        patched = patch_layers(setting.subject, setting.frame, pairs, ("resid_pre", "attn_out", "mlp_out", *SITES))
        expected = plain_log_odds(setting.subject, setting.frame, pairs, patched)
        assert patched.log_odds_after.to_numpy() == pytest.approx(expected, abs=1e-4)

    def test_the_last_residual_stream_gives_the_source(self, stories):
        """It decides the next token alone, and the answers are single tokens; the first layer's does not."""
        subject, pairs = dataclasses.replace(stories.subject, batch_size=5), stories.pairs.iloc[:12]
        patched = patch_layers(subject, stories.frame, pairs, ["resid_post"])
        first, last = (patched[patched.layer == layer] for layer in (0, 1))
        receiver, source = (plain_log_odds(subject, stories.frame, pairs, last, role) for role in (1, 0))
        assert last.log_odds_after.to_numpy() == pytest.approx(source, abs=1e-4)
        assert np.abs(receiver - source).mean() > 0.1
        assert not np.allclose(first.log_odds_after, source)
        both = sets_of({"site": "resid_post", "chosen": np.ones((2, 32), dtype=bool)})
        together = patch(subject, stories.frame, stories.pairs.iloc[:12], both)
        expected = together.sort_values(["target", "pair"]).log_odds_after.to_numpy()
        assert last.sort_values(["target", "pair"]).log_odds_after.to_numpy() == pytest.approx(expected, abs=1e-4)

    def test_rows_are_in_the_order_of_the_pairs(self, setting):
        pairs = setting.pairs.iloc[11::-1]
        patched = patch(
            dataclasses.replace(setting.subject, batch_size=5),
            setting.frame,
            pairs,
            sets_of(set_of("mlp.hook_post", 0)),
        )
        for target in patching.ROLES:
            rows = patched[patched.target == target]
            assert rows.group.to_list() == pairs.group.to_list()
            assert rows.pair.to_list() == pairs.index.to_list()

    def test_the_cached_prefix_changes_nothing(self, inputs, monkeypatch):
        sets = sets_of(set_of("mlp.hook_post", 0, [1, 5, 90]), set_of("resid_post", 1, slice(0, 9)))
        cached = patch(dataclasses.replace(inputs[0], batch_size=5), *inputs[1:], sets)

        def without_prefix(subject, frame, _):
            return behavior.prepare(subject, frame.reset_index(drop=True))

        monkeypatch.setattr(patching, "prepare_last", without_prefix)
        order = ["name", "target", "pair"]
        cached, anew = (rows.sort_values(order, ignore_index=True) for rows in (cached, patch(*inputs, sets)))
        pd.testing.assert_frame_equal(cached, anew, atol=1e-3, rtol=1e-3)
        assert np.abs(cached.log_odds_after - plain_log_odds(*inputs, cached)).max() > 0.01

    def test_blocks_below_the_patch_run_no_more_for_each_set(self, setting):
        pairs = setting.pairs.iloc[:6]

        def counted(n_sets):
            calls, blocks = [], activations.blocks(setting.subject.model)
            hooks = [block.mlp.register_forward_hook(lambda *_, i=i: calls.append(i)) for i, block in enumerate(blocks)]
            patch(setting.subject, setting.frame, pairs, sets_of(*[set_of("mlp.hook_post", 1)] * n_sets))
            for hook in hooks:
                hook.remove()
            return [calls.count(layer) for layer in (0, 1)]

        (below, at), (below_of_three, at_of_three) = counted(1), counted(3)
        assert below_of_three == below
        assert at_of_three - at >= 2 * len(patching.ROLES)

    def test_prompts_of_several_lengths_as_each_pair_alone(self, setting):
        frame = setting.frame.copy()
        frame["input_ids"] = [ids[np.r_[0, 1 + i % 3 : len(ids)]] for i, ids in enumerate(frame.input_ids)]
        pairs, sets = setting.pairs.iloc[:9], sets_of(set_of("mlp.hook_post", 1))
        patched = patch(setting.subject, frame, pairs, sets)
        single = pd.concat(patch(setting.subject, frame, pairs.iloc[[i]], sets) for i in range(9))
        expected = single.sort_values("target", ascending=False, kind="stable").log_odds_after.to_numpy()
        assert patched.log_odds_after.to_numpy() == pytest.approx(expected, abs=1e-3)


class TestHeads:
    def test_all_heads_together_are_the_output_of_attention(self, stories):
        pairs, layer = stories.pairs.iloc[:12], np.zeros((2, 32), dtype=bool)
        layer[1] = True
        sets = sets_of(*({"site": site, "chosen": layer} for site in ("attn.hook_z", "attn_out")))
        patched = patch(stories.subject, stories.frame, pairs, sets)
        heads, output = (patched[patched.site == site].log_odds_after.to_numpy() for site in sets.site)
        assert heads == pytest.approx(output, abs=1e-4)
        assert (
            np.abs(output - plain_log_odds(stories.subject, stories.frame, pairs, patched)[: len(output)]).max() > 0.01
        )

    def test_a_head_is_its_share_of_the_dimensions(self, stories):
        pairs, n_heads = stories.pairs.iloc[:6], stories.subject.model.config.num_attention_heads
        chosen = np.zeros((2, 32), dtype=bool)
        chosen[1, -32 // n_heads :] = True
        (expected,) = [patch(stories.subject, stories.frame, pairs, sets_of({"site": "attn.hook_z", "chosen": chosen}))]
        parts = {"all": slice(None), "last": slice(-1, None)}
        patched = patch_heads(stories.subject, stories.frame, pairs, parts)
        assert len(patched) == 2 * 2 * n_heads * 2 * 6
        last = patched.query("layer == 1 and head == @n_heads - 1 and part == 'last'")
        assert last.log_odds_after.to_numpy() == pytest.approx(expected.log_odds_after.to_numpy(), abs=1e-4)

    def test_a_head_at_every_token_against_a_hook_on_the_projection(self, stories):
        """The input of the output projection is the heads' outputs, side by side."""
        pairs, subject = stories.pairs.iloc[:6], stories.subject
        n_heads = subject.model.config.num_attention_heads
        patched = patch_heads(subject, stories.frame, pairs, {"all": slice(None)})
        patched = patched.query("layer == 1 and head == 1 and target == 'memorization'")
        head = slice(32 // n_heads, 2 * 32 // n_heads)
        names = ("h.1.attn.c_proj", "layers.1.self_attn.o_proj")
        (projection,) = (module for name, module in subject.model.named_modules() if name.endswith(names))
        source, receiver = (
            behavior.prepare(subject, stories.frame.loc[pairs[name]])[0] for name in ("memorization", "generalization")
        )
        seen = []
        with torch.no_grad():
            with projection.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][..., head])):
                behavior.run(subject, source)

            def put_in(_, inputs):
                inputs[0][..., head] = seen[0]

            with projection.register_forward_pre_hook(put_in):
                expected = behavior.measure(subject, [receiver]).log_odds
        assert patched.log_odds_after.to_numpy() == pytest.approx(expected[pairs.generalization].to_numpy(), abs=1e-4)


class TestPositions:
    def test_all_tokens_turn_a_run_into_that_of_the_source_and_none_change_nothing(self, stories):
        pairs = stories.pairs.iloc[:12]
        source, receiver = (stories.frame.loc[pairs[name]] for name in ("memorization", "generalization"))
        sources, (batch,) = (behavior.prepare(stories.subject, rows) for rows in (source, receiver))
        with torch.no_grad(), activations.record(stories.subject.model, ["resid_post"]) as store:
            of_source = behavior.run(stories.subject, sources[0])
        states = list(store["resid_post"])
        with torch.no_grad():
            plain = behavior.run(stories.subject, batch)
        for chosen in whole_layers(stories.subject, ["resid_post"]).chosen:
            for tokens, expected in ((slice(None), of_source), (slice(0, 0), plain)):
                context = replacing(stories.subject, "resid_post", chosen, tokens, [states])
                with torch.no_grad(), context(batch):
                    assert torch.equal(behavior.run(stories.subject, batch), expected)
        assert not torch.equal(of_source, plain)

    def test_rows_against_plain_runs_and_the_last_token_against_patched_layers(self, setting):
        pairs = setting.pairs.iloc[:12]
        parts = {"none": slice(0, 0), "last": slice(-1, None)}
        few = dataclasses.replace(setting.subject, batch_size=5)
        patched = patch_layers(few, setting.frame, pairs, ["resid_post"], parts)
        order = ["layer", "target", "pair"]
        layers = patch_layers(setting.subject, setting.frame, pairs, ["resid_post"]).sort_values(order)
        before = plain_log_odds(setting.subject, setting.frame, pairs, layers)
        for part, expected in (("none", before), ("last", layers.log_odds_after.to_numpy())):
            rows = patched[patched.part == part].sort_values(order)
            assert rows[[*order, "group"]].to_numpy().tolist() == layers[[*order, "group"]].to_numpy().tolist()
            assert rows.log_odds_after.to_numpy() == pytest.approx(expected, abs=1e-3)
        last = patched[patched.part == "last"].sort_values(order)
        assert last.value.to_list() == layers.value.to_list()

    def test_all_tokens_give_the_source(self, stories):
        """Answers are single tokens: no position after the prompt sees the receiver's."""
        pairs = stories.pairs.iloc[:12]
        patched = patch_layers(stories.subject, stories.frame, pairs, ["resid_post"], {"all": slice(None)})
        expected = plain_log_odds(stories.subject, stories.frame, pairs, patched, role=0)
        assert patched.log_odds_after.to_numpy() == pytest.approx(expected, abs=1e-4)

    def test_prompts_of_different_lengths_are_refused(self, stories):
        frame = stories.frame.copy()
        first = stories.pairs.generalization[0]
        frame.at[first, "input_ids"] = frame.input_ids[first][1:]
        with pytest.raises(ValueError, match="must have the same length"):
            patch_layers(stories.subject, frame, stories.pairs, ["resid_post"], {"all": slice(None)})

    def test_members_of_different_lengths_from_the_end_on(self, stories):
        """A token more at the beginning of the receivers moves their last token, and nothing else about it."""
        pairs, frame = stories.pairs.iloc[:6], stories.frame.copy()
        for row in pairs.generalization:
            frame.at[row, "input_ids"] = np.r_[frame.input_ids[row][:1], frame.input_ids[row]]
        parts, chosen = prompt_parts(frame, pairs)
        assert list(parts) == ["shared", "last"] and chosen is pairs
        last = {"last": parts["last"]}
        patched = patch_layers(stories.subject, frame, pairs, ["resid_post"], last).sort_values(["layer", "target"])
        layers = patch_layers(stories.subject, frame, pairs, ["resid_post"]).sort_values(["layer", "target"])
        assert patched.log_odds_after.to_numpy() == pytest.approx(layers.log_odds_after.to_numpy(), abs=1e-4)
        assert np.abs(patched.log_odds_after - plain_log_odds(stories.subject, frame, pairs, patched)).max() > 0.01

    def test_parts_end_with_what_all_members_share(self):
        frame = pd.DataFrame(
            {"input_ids": [np.array(ids) for ids in ([1, 2, 3, 4, 5], [2, 1, 3, 4, 5], [1, 2, 4, 4, 5])]}
        )
        pairs = pd.DataFrame({"memorization": [0, 0], "generalization": [1, 2]})
        assert prompt_parts(frame, pairs)[0]["shared"] == slice(-2, -1)
        expected = {"rearranged": slice(None, -3), "shared": slice(-3, -1), "last": slice(-1, None)}
        assert prompt_parts(frame, pairs.iloc[:1])[0] == expected
        frame.at[2, "input_ids"] = np.array([4, 5])
        assert prompt_parts(frame, pairs)[1].index.tolist() == [0]


class TestPlanted:
    def test_patching_finds_the_mlp_of_the_second_layer(self, planted, planted_pairs):
        sites = ("resid_post", "attn_out", "mlp_out")
        patched = patch_layers(planted.subject, planted.frame, planted_pairs, sites)
        effects = intervals.estimate_by(patched, ["site", "layer", "target"]).set_index(["site", "layer", "target"])
        assert len(effects) == 3 * 2 * 2
        for target in patching.ROLES:
            for layer in (0, 1):
                assert effects.value["attn_out", layer, target] == 0
                assert effects.value["resid_post", layer, target] == 1
            assert effects.value["mlp_out", 0, target] == 0
            assert effects.value["mlp_out", 1, target] > 0.95
        assert (effects.n == len(planted_pairs)).all()

    @pytest.mark.parametrize("site", SITES)
    def test_the_planted_neuron_alone_turns_all_and_the_bottom_nothing(self, planted, planted_pairs, table, rng, site):
        single = 1 / (2 * D[site])
        sets = neuron_sets(table, [site], [single, 1.0], rng)
        planted_at = planted.dimension if site == "resid_post" else planted.neuron
        assert all(chosen[planted_at] for chosen in sets[sets.end == "top"]["chosen"])
        patched = patch(planted.subject, planted.frame, planted_pairs, sets)
        turned = patched.groupby(["ranking", "end", "share", "target"]).value.mean()
        for ranking in RANKINGS:
            for target in patching.ROLES:
                assert turned[ranking, "top", single, target] > 0.9
                assert turned[ranking, "bottom", single, target] == 0

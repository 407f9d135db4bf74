"""Probes: equal to scikit-learn's own fit, honest about groups, and no better than what is planted."""

import types

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from memgen import behavior, localization, prediction, training
from memgen.prediction import probes as probes_module

COLUMNS = ["site", "layer", "probe", "baseline", "split", "n", "accuracy", "auroc", "ci_low", "ci_high"]
COLUMNS += ["auroc_low", "auroc_high"]
SPLITS = {"train": 240, "validation": 120, "test": 120}
WIDTH = 6


def noisy(rng, n=120, n_groups=12):
    """Features that tell the label in part, so that the strength of the regularisation matters."""
    labels, groups = np.resize([1, -1], n), np.repeat(np.arange(n_groups), n // n_groups)
    features = rng.standard_normal((n, WIDTH)) * [1, 10, 1, 1, 1, 100] + 5
    features[:, 0] += 0.8 * labels
    return features, labels, groups


# --- one probe


def test_probe_is_scikit_learns_fit_at_the_best_strength(rng):
    features, labels, groups = noisy(rng)
    probe = prediction.fit_probe(features, labels, groups)
    losses = []
    for strength in probes_module.STRENGTHS:
        own = []
        for train, held_out in GroupKFold(4).split(features, labels, groups):
            assert not set(groups[train]) & set(groups[held_out])
            classifier = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
            classifier.fit(features[train], labels[train])
            own.append(log_loss(labels[held_out], classifier.predict_proba(features[held_out])))
        losses.append(np.mean(own))
    chosen = probes_module.STRENGTHS[np.argmin(losses)]
    assert probe.best_params_ == {"logisticregression__C": chosen}
    direct = make_pipeline(StandardScaler(), LogisticRegression(C=chosen, max_iter=1000)).fit(features, labels)
    np.testing.assert_allclose(probe.predict_proba(features), direct.predict_proba(features), rtol=1e-9)


def test_groups_are_never_divided_between_folds(rng):
    """Features that name the group: only rows of the same group in training could tell its label."""
    groups = np.repeat(np.arange(20), 10)
    labels = rng.permutation(np.resize([1, -1], 20))[groups]
    probe = prediction.fit_probe(np.eye(20)[groups], labels, groups)
    assert probe.best_params_ == {"logisticregression__C": min(probes_module.STRENGTHS)}
    assert probe.best_score_ <= -np.log(2)  # no fold did better than guessing
    other = prediction.fit_probe(np.eye(20)[groups], labels, rng.permutation(groups))
    assert other.best_params_ == {"logisticregression__C": max(probes_module.STRENGTHS)}


@pytest.mark.parametrize("n_groups", [2, 3, 50])
def test_few_groups_make_few_folds(rng, n_groups):
    features, labels, _ = noisy(rng)
    probe = prediction.fit_probe(features, labels, np.resize(np.arange(n_groups), len(labels)).repeat(2)[: len(labels)])
    assert probe.n_splits_ == min(n_groups, probes_module.FOLDS)


@pytest.mark.filterwarnings("error")
def test_a_fold_of_one_label_is_no_obstacle(rng):
    """Bound pairs mostly keep one behaviour; a fold of such groups has one label only."""
    features, labels, _ = noisy(rng)
    features[:, 0] += 2 * labels
    groups = np.where(labels == 1, 0, np.resize(np.arange(4), len(labels)))
    groups[:4] = np.arange(4)
    probe = prediction.fit_probe(features, labels, groups)
    assert np.isfinite(probe.cv_results_["mean_test_score"]).all()
    assert probe.score(features, labels) > -0.3


@pytest.mark.parametrize(("labels", "groups"), [([1, 1, 1, 1], [0, 0, 1, 1]), ([1, -1, 1, -1], [0, 0, 0, 0])])
def test_nothing_to_learn_from(labels, groups):
    with pytest.raises(ValueError, match="two groups and two labels"):
        prediction.fit_probe(np.zeros((4, 2)), np.array(labels), np.array(groups))


def test_squares_tell_what_no_direction_tells(rng):
    """Under one behaviour each input has a direction of its own: large states, and a mean of zero."""
    labels, groups = np.resize([1, -1], 400), np.arange(400) // 10
    features = rng.standard_normal((400, WIDTH)) * np.where(labels == 1, 3, 1)[:, None] + 100
    own = slice(0, 200), slice(200, 400)
    told = {}
    for squares in (False, True):
        probe = prediction.fit_probe(features[own[0]], labels[own[0]], groups[own[0]], squares=squares)
        told[squares] = (probe.predict(features[own[1]]) == labels[own[1]]).mean()
    assert told[False] < 0.65 < 0.9 < told[True]


# --- what the input alone tells


def test_words_are_counted():
    words = prediction.InputFeatures("words").fit(np.array([[3, 4, 3], [5, 3, 1]]))
    expected = [[0, 0, 0, 2, 0, 1], [1, 0, 0, 1, 0, 0]]  # tokens 0 to 5; 6 and 9 are unknown
    np.testing.assert_array_equal(words.transform(np.array([[3, 5, 3], [9, 0, 3]])), expected)
    np.testing.assert_array_equal(words.transform(np.array([[6, 6, 6]])), np.zeros((1, 6)))


def test_positions_are_one_hot():
    places = prediction.InputFeatures("words and positions").fit(np.array([[3, 4], [5, 4], [3, 6]]))
    # Columns: 3 or 5 at the first position, 4 or 6 at the second.
    ids = np.array([[3, 6], [5, 4], [4, 4], [9, 9]])
    expected = [[1, 0, 0, 1], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(places.transform(ids).toarray(), expected)


def test_unknown_baseline():
    with pytest.raises(ValueError, match=r"'letters'.*words, words and positions"):
        prediction.InputFeatures("letters")


# --- many probes in a table


def planted(rng, position=False, sites=("resid_post",)):
    """Frames and states of every split: layer 1 of the first site holds the label, all else is noise.

    Prompts are orders of the same words; `position`: which word comes first follows the label.
    """
    frames, states = {}, {}
    for i, (split, n) in enumerate(SPLITS.items()):
        labels = rng.permutation(np.resize([1, -1], n))
        words = rng.permuted(np.tile(np.arange(3, 3 + WIDTH), (n, 1)), axis=1)
        if position:
            words[:, 0] = np.where(labels == 1, 3, 4)
            words[:, 1] = 7 - words[:, 0]
            words[:, 2:] = rng.permuted(np.tile(np.arange(5, 3 + WIDTH), (n, 1)), axis=1)
        groups = [f"{split}{g}" for g in np.resize(np.arange(n // 10), n)]
        frames[split] = pd.DataFrame(
            {"input_ids": list(words), "behavior": labels, "group": groups}, index=np.arange(n) + i
        )
        states[split] = {site: rng.standard_normal((n, 2, WIDTH)) for site in sites}
        states[split][sites[0]][:, 1, 2] += 4 * labels
    return frames, states


def made_inputs(frames, states):
    return {split: prediction.Inputs(frame, states[split]) for split, frame in frames.items()}


def table_of(frames, states, rng, name="all conflicts"):
    """The table of linear probes and baselines; both kinds of probes take longer."""
    inputs = made_inputs(frames, states)
    probes = prediction.fit_probes(inputs["train"], ["hidden states"]) + prediction.fit_baselines(inputs["train"])
    return prediction.probe_table(probes, inputs, name, rng, 50)


def accuracy(table, **where):
    for column, value in where.items():
        table = table[table[column] == value]
    assert len(table) == 1
    return table.accuracy.iloc[0]


def test_table_finds_what_is_planted_and_nothing_else(rng):
    table = table_of(*planted(rng, sites=("resid_post", "mlp_out")), rng)
    assert list(table) == COLUMNS
    assert set(table.split) == {"validation", "test"}  # nothing is reported on what was fitted
    assert (table.n == table.split.map(SPLITS)).all()
    assert set(table.probe) == {"all conflicts"}
    probes, baselines = table[table.baseline == "hidden states"], table[table.baseline != "hidden states"]
    expected = {
        (site, layer, split) for site in ("resid_post", "mlp_out") for layer in (0, 1) for split in list(SPLITS)[1:]
    }
    assert set(probes[["site", "layer", "split"]].itertuples(index=False, name=None)) == expected
    assert len(probes) == len(expected)
    assert sorted(baselines[baselines.split == "test"].baseline) == [
        "majority",
        "words",
        "words and positions",
    ]
    assert baselines[["site", "layer"]].isna().all(axis=None)
    for row in table.itertuples():
        assert row.ci_low <= row.accuracy <= row.ci_high
        assert row.auroc_low <= row.auroc <= row.auroc_high
        if (row.site, row.layer) == ("resid_post", 1):
            assert min(row.accuracy, row.auroc) > 0.98
        else:
            assert abs(row.accuracy - 0.5) < 0.15  # three standard errors of 120 coins
            assert abs(row.auroc - 0.5) < 0.15
    majority = table[table.baseline == "majority"]
    assert (majority.auroc == 0.5).all()
    assert prediction.best_probe(table).accuracy == accuracy(table, site="resid_post", layer=1, split="test")


def test_probes_of_the_table_are_scikit_learns(rng):
    """Numbers of the table, computed anew from `fit_probe` and scikit-learn's metrics."""
    inputs = made_inputs(*planted(rng))
    train, test = inputs["train"], inputs["test"]
    probes = prediction.fit_probes(train)
    assert [(probe.layer, probe.baseline) for probe in probes] == [
        (layer, kind) for layer in (0, 1) for kind in prediction.PROBES
    ]
    table = prediction.probe_table(probes, inputs, "x", rng, 50, ["test"])
    for row, squares in zip(table.itertuples(), (False, True) * 2, strict=True):
        state = {name: own.states["resid_post"][:, row.layer] for name, own in inputs.items()}
        direct = prediction.fit_probe(state["train"], train.labels, train.groups, squares=squares)
        assert row.accuracy == (direct.predict(state["test"]) == test.labels).mean()
        assert row.auroc == pytest.approx(roc_auc_score(test.labels, direct.predict_proba(state["test"])[:, 1]))
        assert prediction.find(probes, table.loc[row.Index]).right(test).mean() == row.accuracy


def test_table_tells_what_the_input_gives_away(rng):
    frames, states = planted(rng, position=True)
    table = table_of(frames, {split: {} for split in states}, rng, "flip pairs")
    assert accuracy(table, baseline="words and positions", split="test") == 1.0
    assert abs(accuracy(table, baseline="words", split="test") - 0.5) < 0.15
    best = prediction.best_input_baseline(table)
    assert (best.baseline, best.split, best.accuracy) == ("words and positions", "test", 1.0)


def test_table_is_reproducible_and_can_be_saved(tmp_path):
    one, same = (table_of(*planted(np.random.default_rng(1)), np.random.default_rng(2)) for _ in range(2))
    pd.testing.assert_frame_equal(one, same, check_exact=True)
    one.to_parquet(tmp_path / "probes.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "probes.parquet"), one)


def test_shuffled_labels_are_not_found(rng):
    frames, states = planted(rng)
    for frame in frames.values():
        frame["behavior"] = rng.permutation(frame.behavior)
    table = table_of(frames, states, rng)
    assert (abs(table.accuracy - 0.5) < 0.15).all()


def test_best_probe_is_chosen_on_validation(rng):
    """Layer 0 is best on test, layer 1 on validation: layer 1 is taken, with its test accuracy."""
    frames, states = planted(rng)
    for split, frame in frames.items():
        labels, state = frame.behavior.to_numpy(), states[split]["resid_post"]
        state[:, 0, 4] += 4 * (labels if split != "validation" else rng.permutation(labels))
        state[:, 1, 2] -= (
            0 if split != "test" else 4 * (labels - np.where(rng.random(len(labels)) < 0.3, -labels, labels))
        )
    table = table_of(frames, states, rng)
    assert accuracy(table, layer=0, split="test") > 0.98 > accuracy(table, layer=0, split="validation")
    best = prediction.best_probe(table)
    assert (best.layer, best.split) == (1, "test")
    assert best.accuracy == accuracy(table, layer=1, split="test") < 0.85


def test_best_probe_takes_the_first_of_equals():
    rows = [("resid_post", layer, "hidden states", split) for layer in (0, 1) for split in ("validation", "test")]
    table = pd.DataFrame(rows, columns=["site", "layer", "baseline", "split"])
    assert prediction.best_probe(table.assign(auroc=1.0)).layer == 0
    assert prediction.best_probe(table.assign(auroc=[0.8, 0.9, 0.9, 0.8])).layer == 1


def test_best_baseline_is_chosen_on_validation_among_baselines():
    rows = [
        ("hidden states", 0.99, 0.99),
        ("words", 0.7, 0.6),
        ("words and positions", 0.6, 0.8),
        ("majority", 0.5, 0.85),
        ("untrained network", 0.9, 0.9),
    ]
    table = pd.DataFrame(rows, columns=["baseline", "validation", "test"])
    table = table.melt("baseline", var_name="split", value_name="accuracy").assign(site=None, layer=None, auroc=0.5)
    best = prediction.best_input_baseline(table)
    assert (best.baseline, best.accuracy) == ("words", 0.6)
    assert prediction.best_control(table, "untrained network").accuracy == 0.9


def test_gain_is_of_the_same_rows(rng):
    """The probe knows layer 1's label; the majority knows half."""
    inputs = made_inputs(*planted(rng))
    probes = prediction.fit_probes(inputs["train"], ["hidden states"])
    majority = prediction.fit_baselines(inputs["train"])[-1]
    test = inputs["test"]
    gain = prediction.gain(probes[1], majority, test, rng, 200)
    assert gain.value == pytest.approx(probes[1].right(test).mean() - majority.right(test).mean())
    assert 0.3 < gain.low < gain.value < gain.high < 0.7
    assert prediction.gain(majority, majority, test, rng, 200)[:3] == (0, 0, 0)
    noise = prediction.gain(probes[0], majority, test, rng, 200)
    assert noise.low < 0.1 and noise.high > -0.1


def test_taking_rows_keeps_frame_and_states_together(rng):
    frames, states = planted(rng)
    whole = prediction.Inputs(frames["test"], states["test"])
    mask = rng.random(len(whole)) < 0.3
    for chosen in (mask, np.flatnonzero(mask)):
        part = whole.take(chosen)
        assert len(part) == mask.sum()
        assert part.frame.index.equals(whole.frame.index[mask])
        np.testing.assert_array_equal(part.states["resid_post"], whole.states["resid_post"][mask])
    assert whole.can_be_probed()
    assert not whole.take(whole.labels == 1).can_be_probed()
    assert not whole.take(whole.groups == whole.groups[0]).can_be_probed()


# --- controls


@pytest.mark.parametrize("size", [1, 2, 5, 40])
def test_groups_are_halved(rng, size):
    groups = rng.permutation(np.repeat(["a", "b", "c"], size))
    fit, held_out = prediction.within_groups(groups, rng)
    assert not set(fit) & set(held_out)
    assert len(set(fit)) == len(fit) and len(set(held_out)) == len(held_out)
    for own in (fit, held_out):
        assert [list(groups[own]).count(name) for name in "abc"] == [size // 2] * 3


def control_inputs(rng, n_groups=24, rows=6, width=40, knows_group=True, knows_behavior=True):
    """States that hold which group it is, or the behaviour, or neither."""
    groups = np.repeat(np.arange(n_groups), rows)
    labels = rng.permutation(np.resize([1, -1], len(groups)))
    state = rng.standard_normal((len(groups), 2, width))
    if knows_group:
        state[np.arange(len(groups)), :, groups] += 12
    if knows_behavior:
        state[:, :, -1] += 4 * labels[:, None]
    frame = pd.DataFrame({"behavior": labels, "group": groups.astype(str)})
    return prediction.Inputs(frame, {"resid_post": state})


@pytest.mark.parametrize(
    ("knows_group", "knows_behavior"), [(True, True), (True, False), (False, True), (False, False)]
)
def test_control_task_tells_learning_by_heart_from_reading(rng, knows_group, knows_behavior):
    inputs = control_inputs(rng, knows_group=knows_group, knows_behavior=knows_behavior)
    table, selectivity = prediction.control_task(inputs, "resid_post", "hidden states", "all conflicts", rng, 200)
    assert list(table) == COLUMNS
    assert set(table.split) == {"held-out rows"}
    assert (table.n == 24 * 3).all()
    for layer in (0, 1):
        real, control = (accuracy(table, layer=layer, baseline=name) for name in ("hidden states", prediction.CONTROL))
        assert (control > 0.9) if knows_group else (control < 0.7)
        assert (real > 0.9) if knows_behavior else (real < 0.7)
        assert selectivity[layer].value == pytest.approx(real - control)
        assert selectivity[layer].low <= real - control <= selectivity[layer].high


def test_control_task_with_two_rows_a_group(rng):
    """As in addition: one row is learned and the other told."""
    inputs = control_inputs(rng, rows=2)
    table, _ = prediction.control_task(inputs, "resid_post", "hidden states and squares", "x", rng, 50)
    assert (table.n == 24).all()


def test_probes_of_another_network_have_its_name(rng):
    inputs = made_inputs(*planted(rng, sites=("resid_post", "mlp_out")))
    probes = prediction.fit_probes(inputs["train"], ["hidden states"], prediction.UNTRAINED, ["mlp_out"])
    assert [(probe.site, probe.layer, probe.baseline) for probe in probes] == [
        ("mlp_out", layer, "untrained network") for layer in (0, 1)
    ]
    table = prediction.probe_table(probes, inputs, "x", rng, 50)
    assert prediction.best_control(table, prediction.UNTRAINED).site == "mlp_out"
    assert (abs(table.accuracy - 0.5) < 0.15).all()  # mlp_out is noise


def test_untrained_network_has_the_models_shape_and_weights_of_its_own(stories):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    one, same, other = (training.untrained(stories.model, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)  # the global generator is left alone
    weights = [network.get_input_embeddings().weight for network in (one, same, other, stories.model)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[3])
    assert {name: value.shape for name, value in one.state_dict().items()} == {
        name: value.shape for name, value in stories.model.state_dict().items()
    }
    assert not one.training


def test_transfer_is_to_the_test_groups_of_the_others(rng):
    """The label stands in the same neuron of `one` and `two`, and with the other sign in `three`."""
    inputs = {}
    for name, sign in (("one", 1), ("two", 1), ("three", -1)):
        frames, states = planted(rng)
        inputs[name] = made_inputs(
            frames, {split: {"resid_post": sign * own["resid_post"]} for split, own in states.items()}
        )
    probes = {name: prediction.fit_probes(own["train"], ["hidden states"])[1] for name, own in inputs.items()}
    table = prediction.transfer(probes, inputs, rng, 50)
    assert list(table) == COLUMNS
    assert set(table.split) == {"test"}
    told = {(row.baseline, row.probe): row.accuracy for row in table.itertuples()}
    assert len(told) == 6
    for (source, target), value in told.items():
        flipped = ("three" in source) != (target == "three")
        assert (value < 0.02) if flipped else (value > 0.98)
    assert prediction.transfer({}, inputs, rng, 50).empty


def test_readout_of_the_last_layer_is_the_models(stories):
    """The log-odds of the two answers' first tokens, as the model's own logits have them."""
    frame = stories.frame[stories.frame.kind == "conflict"].head(20)
    ids = [
        np.array(
            [stories.tokenizer(answer, add_special_tokens=False).input_ids[0] for answer in frame[f"answer_{name}"]]
        )
        for name in ("memorization", "generalization")
    ]
    ((_, states),) = localization.read_states(stories.model, frame, stories.tokenizer, ["resid_post"])
    odds = prediction.readout(stories.model, states["resid_post"], *ids)
    batch = behavior.prompts(stories.model, frame, stories.tokenizer)
    with torch.no_grad():
        logits = behavior.run(stories.model, batch)[np.arange(20), batch.prompt_length - 1].numpy()
    expected = logits[np.arange(20), ids[0]] - logits[np.arange(20), ids[1]]
    np.testing.assert_allclose(odds[:, -1], expected, atol=1e-4)
    assert odds.shape == (20, 2)
    assert abs(odds[:, 0] - expected).max() > 0.1  # an earlier layer says something else


def test_direct_reading_is_the_sign_of_the_readout(rng):
    labels = np.array([1, -1, 1, -1])
    odds = np.stack([[-1.0, -2.0, 3.0, 4.0], 0.1 * labels], axis=1)
    frame = pd.DataFrame({"behavior": labels, "group": list("abcd")})
    inputs = prediction.Inputs(frame, {"direct reading": odds})
    first, last = prediction.direct_reading("resid_post", 2)
    assert (last.site, last.layer, last.baseline) == ("resid_post", 1, "direct reading")
    assert first.right(inputs).tolist() == [0, 1, 1, 0]
    assert last.right(inputs).all()


# --- numbers


def test_evaluate_counts_what_is_right(rng):
    features, labels, groups = noisy(rng)
    probe = prediction.fit_probe(features, labels, groups)
    scores = probe.decision_function(features)
    numbers = prediction.evaluate(scores, labels, groups, rng, 200)
    assert list(numbers) == COLUMNS[5:]
    assert numbers["n"] == len(labels)
    assert numbers["accuracy"] == (probe.predict(features) == labels).mean()
    assert numbers["auroc"] == pytest.approx(roc_auc_score(labels, probe.predict_proba(features)[:, 1]))
    assert numbers["auroc"] > 0.6
    assert 0 < numbers["ci_low"] < numbers["accuracy"] < numbers["ci_high"] < 1
    assert 0 < numbers["auroc_low"] < numbers["auroc"] < numbers["auroc_high"] < 1
    one_label = prediction.evaluate(scores[:10:2], labels[:10:2], groups[:10:2], rng, 10)
    assert np.isnan(one_label["auroc"])


@pytest.mark.parametrize(("labels", "share"), [([-1, 1, 1], 2 / 3), ([-1, -1, 1], 1 / 3)])
def test_majority(labels, share):
    """It says the label that is frequent in training, whatever it sees."""
    frame = pd.DataFrame({"input_ids": [np.array([3, 4])] * 3, "behavior": labels}).loc[[0, 1, 2] * 4]
    frame["group"] = np.repeat(list("abcd"), 3)
    always = prediction.fit_baselines(prediction.Inputs(frame, {}))[-1]
    assert always.baseline == "majority"
    others = prediction.Inputs(pd.DataFrame({"behavior": [1, 1, 1, -1], "group": list("abcd")}), {})
    assert always.right(others).mean() == (0.75 if share > 0.5 else 0.25)


def test_most_balanced():
    frame = pd.DataFrame({"evidence": [1] * 6 + [2] * 4, "behavior": [1, 1, 1, 1, 1, -1, 1, 1, -1, -1]})
    assert prediction.most_balanced(frame, "evidence") == 2


@pytest.mark.parametrize(
    ("shares", "middle"),
    [([0.9, 0.1, 0.75, 0.25], [0.25, 0.75]), ([0.5, 0.9, 0.1], [0.5]), ([0.9, 0.4], [0.4]), ([0.5], [0.5])],
)
def test_middle_shares(shares, middle):
    frame = pd.DataFrame({"memorized_share": np.tile(shares, 3)})
    assert prediction.middle_shares(frame) == middle


# --- how many pairs


def pairs_with_states(rng, n, split):
    """Pairs whose members differ, weakly, along one direction among the pair's own large content."""
    content = rng.standard_normal((n, 1, 40))
    states = content + 0.5 * rng.standard_normal((n, 2, 40))
    states[:, :, 7] += np.array([2.5, -2.5])
    return states.reshape(2 * n, 40), pd.DataFrame({"group": [f"{split}{i // 2}" for i in range(n)]})


def test_by_number_of_pairs(rng, monkeypatch):
    made = {split: pairs_with_states(rng, n, split) for split, n in (("train", 100), ("test", 50))}
    states = {split: one[0] for split, one in made.items()}
    pairs = {split: one[1] for split, one in made.items()}
    seen = []

    def spy(features, labels, groups, squares):
        assert not squares
        seen.append(types.SimpleNamespace(features=features, labels=labels, groups=groups))
        return real(features, labels, groups)

    real = prediction.fit_probe
    monkeypatch.setattr(prediction.tables, "fit_probe", spy)
    curve = prediction.by_number_of_pairs(states, pairs, [1, 4, 20, 100], rng, 50)
    assert list(curve) == ["n_pairs", *COLUMNS[5:]]
    assert curve.n_pairs.tolist() == [4, 20, 100]  # a single pair has a single group: no probe
    assert (curve.n == 100).all()
    assert curve.accuracy.iloc[-1] > 0.9
    assert curve.auroc.iloc[0] < curve.auroc.iloc[-1]
    place = {tuple(row): i for i, row in enumerate(states["train"])}
    for one, size in zip(seen, (4, 20, 100), strict=True):
        rows = np.array([place[tuple(row)] for row in one.features]).reshape(size, 2)
        assert (rows[:, 1] == rows[:, 0] + 1).all()  # both members of each pair
        assert (rows[:, 0] % 2 == 0).all()
        assert len(set(rows[:, 0])) == size
        assert one.labels.tolist() == [1, -1] * size
        np.testing.assert_array_equal(
            one.groups.reshape(size, 2)[:, 0], pairs["train"].group.to_numpy()[rows[:, 0] // 2]
        )

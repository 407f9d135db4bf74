"""What carries over: matches that are known beforehand, transfers whose answer was planted, tables done by hand."""

import copy
import itertools

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch

from memgen import behavior, carryover, steering
from memgen.config import AnalysisConfig, InputError
from memgen.figures import carryover as figures
from tests.conftest import TASKS, random_model

ANALYSIS = AnalysisConfig(n_resamples=50, fit_rows=64, fit_batch_size=32, fit_steps=40, random_draws=2, sweep_rows=64)
SITE = carryover.SITE


# --- matching


def permuted_copy(model, rng):
    """The same function with the MLP's neurons of each layer in another order, and that order [layer, neuron]."""
    other, orders = copy.deepcopy(model), []
    for block in other.transformer.h:
        order = torch.from_numpy(rng.permutation(block.mlp.c_fc.nf))
        block.mlp.c_fc.weight.data = block.mlp.c_fc.weight.data[:, order]
        block.mlp.c_fc.bias.data = block.mlp.c_fc.bias.data[order]
        block.mlp.c_proj.weight.data = block.mlp.c_proj.weight.data[order]
        orders.append(order.numpy())
    return other, np.stack(orders)


def states_of(model, setting):
    return carryover.states(model, setting.frame, setting.tokenizer, [SITE], batch_size=16)[SITE]


def test_a_permuted_copy_matches_perfectly(sums, rng):
    other, order = permuted_copy(sums.model, rng)
    a, b = states_of(sums.model, sums), states_of(other, sums)
    assert a.shape == b.shape == (len(sums.frame), 2, 128)
    np.testing.assert_allclose(a[:, np.arange(2)[:, None], order], b, atol=1e-5)
    r = rng.uniform(-1, 1, (2, 128))
    r_other = np.take_along_axis(r, order, 1)
    numbers, matches = carryover.compare_models(a, b, r.ravel(), r_other.ravel(), rng)
    assert numbers["best"] == numbers["one_to_one"] == 1.0
    assert numbers["index"] < 0.4
    assert (matches.correlation > 0.999).all()
    assert matches.rotated.mean() < matches.correlation.mean()
    where = carryover.one_to_one(carryover.correlations(a, b))
    expected = (np.argsort(order, axis=1) + 128 * np.arange(2)[:, None]).ravel()
    assert (where == expected).all()


def test_another_random_model_is_near_chance(sums, rng):
    other = random_model("gpt2-2x32", sums.tokenizer, 20, 0.3)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.copy_(torch.from_numpy(rng.normal(0, 0.3, tuple(parameter.shape))))
    a, b = states_of(sums.model, sums), states_of(other, sums)
    found = []
    for _ in range(40):
        r_a, r_b = rng.uniform(-1, 1, (2, 256))
        found.append(carryover.compare_models(a, b, r_a, r_b, rng)[0])
    means = pd.DataFrame(found).mean()
    for way in ("best", "one_to_one", "index"):
        assert abs(means[way] - means[f"{way}_chance"]) < 0.05
    assert means.universal < 0.05


def test_universal_neurons_are_those_beyond_the_space(rng):
    """Of independent neurons in a wide space, those that a model shares stand out; after a rotation none does."""
    a, b = rng.standard_normal((2, 600, 1, 200)).astype(np.float32)
    b[:, :, :50] = a[:, :, 100:150]
    numbers, matches = carryover.compare_models(a, b, np.arange(200.0), np.arange(200.0), rng)
    assert numbers["universal"] == 0.25
    assert (np.flatnonzero(matches.correlation > 0.9) == np.arange(100, 150)).all()
    with pytest.raises(ValueError, match=r"one size .*\(600, 1, 200\) and \(599, 1, 200\)"):
        carryover.compare_models(a, b[:-1], np.arange(200.0), np.arange(200.0), rng)


def test_correlations_are_pearsons(rng):
    a, b = rng.standard_normal((50, 2, 3)), rng.standard_normal((50, 1, 4))
    a[:, 1, 2] = 7.0  # constant
    found = carryover.correlations(a, b)
    expected = np.corrcoef(a.reshape(50, 6).T[:5], b.reshape(50, 4).T)[:5, 5:]
    np.testing.assert_allclose(found[:5], expected, atol=1e-6)
    assert (found[5] == 0).all()
    with pytest.raises(ValueError, match="50 and 49"):
        carryover.correlations(a, b[:-1])


def test_a_rotation_keeps_the_space_of_each_layer(rng):
    a = rng.standard_normal((30, 2, 8)).astype(np.float32)
    turned = carryover.rotated(a, rng)
    for layer in range(2):
        one, other = a[:, layer] - a[:, layer].mean(0), turned[:, layer]
        np.testing.assert_allclose(one @ one.T, other @ other.T, atol=1e-4)
        assert np.abs(one - other).max() > 0.1


def test_one_to_one_is_the_best_pairing(rng):
    correlation = rng.uniform(-1, 1, (5, 5))
    sums = {order: np.abs(correlation)[np.arange(5), order].sum() for order in itertools.permutations(range(5))}
    assert tuple(carryover.one_to_one(correlation)) == max(sums, key=sums.get)
    with pytest.raises(ValueError, match="5 neurons"):
        carryover.one_to_one(correlation[:, :4])


def test_chance_is_the_mean_over_matches_dealt_anew_in_each_layer(rng):
    layer = np.repeat([0, 1], [6, 10])
    top_a, top_b = rng.random(16) < 0.4, rng.random(16) < 0.4
    match = rng.integers(16, size=16)
    found, chance = carryover.carried(top_a, top_b, match, layer)
    assert found == top_b[match[top_a]].mean()
    dealt = []
    for _ in range(4000):
        anew = np.concatenate([rng.permutation(match[layer == one]) for one in (0, 1)])
        dealt.append(top_b[anew[top_a]].mean())
    assert chance == pytest.approx(np.mean(dealt), abs=0.01)


def test_top():
    r = np.array([0.1, -0.9, 0.5, 0.5, 0.0, 0.2, -0.3, 0.0, 0.0, 0.0])
    assert np.flatnonzero(carryover.top(r)).tolist() == [1]
    assert np.flatnonzero(carryover.top(r, 0.2)).tolist() == [1, 2]  # the earlier of equals


def test_common_prompts_are_conflicts_from_every_frame(rng):
    frames = [pd.DataFrame({"kind": ["conflict"] * 30 + ["aligned"] * 30, "seed": seed}) for seed in range(3)]
    common = carryover.common_prompts(frames, 20, rng)
    assert set(common.kind) == {"conflict"}
    assert common.seed.value_counts().tolist() == [7, 7, 7]
    assert common.index.tolist() == list(range(21))
    assert len(carryover.common_prompts(frames, 1000, rng)) == 90


def test_same_vocabulary():
    one, other = (TASKS[name].tokenizer() for name in TASKS)
    assert carryover.same_vocabulary([one, TASKS["inference"].tokenizer()])
    assert not carryover.same_vocabulary([one, other])


def test_site_correlations_stand_layer_by_layer(rng):
    layer, neuron = map(np.ravel, np.indices((2, 3)))
    table = pd.DataFrame({"site": SITE, "layer": layer, "neuron": neuron, "r": np.arange(6.0)})
    table = pd.concat([table, table.assign(site="resid_post", r=9.0)]).sample(frac=1, random_state=rng)
    assert carryover.site_correlations(table, SITE).tolist() == [0, 1, 2, 3, 4, 5]


# --- transfer


@pytest.fixture
def parts(planted):
    """The planted inputs as two parts, by turns of their groups: in the second the two answers change places."""
    measured = behavior.measure(planted.model, behavior.prepare(planted.model, planted.frame, planted.tokenizer))
    frame = planted.frame.assign(behavior=measured.behavior)
    group = frame.group.astype(int)
    swapped = frame.assign(
        answer_memorization="red", answer_generalization="crimson", behavior=-frame.behavior, group=frame.group + "'"
    )
    splits = {"train": group % 5 < 2, "validation": group % 5 == 2, "test": group % 5 > 2}
    made = {
        "one": {split: frame[rows] for split, rows in splits.items()},
        "other": {split: swapped[rows] for split, rows in splits.items()},
    }
    made["other"]["test"] = made["other"]["test"][:-7]  # so that the parts can be told apart by their size
    return made


def planted_shift(planted, size):
    """The shift of the one neuron that decides, to each target."""
    shift = torch.zeros(2, 128)
    shift[planted.neuron] = size
    return {behavior.MEMORIZATION: shift, behavior.GENERALIZATION: -shift}


@pytest.mark.parametrize("size", [0.0, 30.0])
def test_a_shift_moves_what_it_should_and_nothing_moves_without(planted, parts, rng, size):
    frame = parts["one"]["test"]
    told = carryover.apply_shifts(
        planted.model, frame, planted.tokenizer, planted_shift(planted, size), ANALYSIS, rng
    ).set_index("target")
    assert told.index.tolist() == ["memorization", "generalization"]
    assert told.n.tolist() == [(frame.behavior == -1).sum(), (frame.behavior == 1).sum()]
    assert (told.value == (size > 0)).all()
    assert (told.to_other == 0).all()
    assert (told.net == told.value - told.control).all()
    if size == 0:
        assert (told.control == 0).all()


def test_a_shift_carries_to_where_it_means_the_same(planted, parts, rng):
    """On the second part the first part's shift leads away from its target: that must show off the diagonal only."""
    same = {"one": parts["one"], "again": parts["one"]}
    table = carryover.shift_matrix(planted.model, same, planted.tokenizer, ANALYSIS, rng)
    assert len(table) == 8
    assert (table.value > 0.9).all()
    table = carryover.shift_matrix(planted.model, parts, planted.tokenizer, ANALYSIS, rng)
    own = table.source == table.destination
    assert (table.value[own] > 0.9).all()
    assert (table.value[~own] == 0).all()
    for row in table.itertuples():
        target = {name: label for label, name in behavior.NAMES.items()}[row.target]
        assert row.n == (parts[row.destination]["test"].behavior == -target).sum()


def test_a_probe_carries_to_where_it_means_the_same(planted, parts, rng):
    table = carryover.probe_matrix(planted.model, parts, planted.tokenizer, rng, 50)
    own = table.source == table.destination
    assert len(table) == 4
    assert (table.auroc[own] > 0.95).all()
    assert (table.auroc[~own] < 0.05).all()
    assert (table.accuracy[own] > 0.9).all()
    assert table.majority.between(0.5, 1).all()
    assert table.n.tolist() == [len(parts[name]["test"]) for name in table.destination]
    few = carryover.probe_matrix(planted.model, parts, planted.tokenizer, rng, 50, n_rows=20)
    assert (few.n == 20).all()


def test_penalty_and_strength_are_chosen_on_validation_groups(planted, parts, rng):
    """A penalty that forbids any shift and a strength that breaks the model are never the choice."""
    settings = AnalysisConfig(
        fit_rows=64, fit_batch_size=32, fit_steps=20, sweep_rows=32, norm_penalties=(100.0, 0.1), strengths=(1.0, 1e4)
    )
    shifts = carryover.choose_shifts(planted.model, parts["one"], planted.tokenizer, settings, rng)
    assert list(shifts) == list(steering.TARGETS)
    for target, shift in shifts.items():
        told = carryover.apply_shifts(
            planted.model, parts["one"]["validation"], planted.tokenizer, {target: shift}, settings, rng
        )
        assert told.value.item() > 0.9
        assert 0.1 < shift.norm() < 1e3
    # Where no validation input could be steered to memorization, nothing is chosen for that.
    frame = parts["one"]["validation"]
    poor = parts["one"] | {"validation": frame[frame.behavior == behavior.MEMORIZATION]}
    shifts = carryover.choose_shifts(planted.model, poor, planted.tokenizer, settings, rng)
    assert list(shifts) == [behavior.GENERALIZATION]


def test_without_the_opposite_behaviour_nothing_is_fitted(planted, parts, rng):
    frame = parts["one"]["train"]
    only = frame[frame.behavior == behavior.MEMORIZATION]
    shifts = carryover.fit_shifts(planted.model, only, planted.tokenizer, ANALYSIS, rng)
    assert list(shifts) == [behavior.GENERALIZATION]
    told = carryover.apply_shifts(planted.model, only, planted.tokenizer, shifts, ANALYSIS, rng)
    assert told.target.tolist() == ["generalization"]


# --- checkpoints


@pytest.mark.parametrize(
    ("steps", "n", "expected"),
    [
        ([-300, -100, 100, 200, 300, 400, 500], 3, [100, 300, 500]),
        ([100, 200], 5, [100, 200]),
        ([300, 100, 200], 1, [100]),
        ([-100, 0], 5, []),
    ],
)
def test_evenly(steps, n, expected):
    assert carryover.evenly(steps, n) == expected


def test_neuron_correlations_find_the_planted_neuron(planted, parts):
    frame = pd.concat(parts["one"].values()).sort_index()
    r = carryover.neuron_correlations(planted.model, frame, frame.behavior, planted.tokenizer, SITE)
    layer, neuron = planted.neuron
    assert r.shape == (256,)
    assert carryover.top(r)[layer * 128 + neuron]
    pairs = behavior.flip_pairs(frame, frame.behavior)
    members = frame.loc[[*pairs.memorization, *pairs.generalization]]
    activations = carryover.states(planted.model, members, planted.tokenizer, [SITE])[SITE][:, layer, neuron]
    assert r[layer * 128 + neuron] == pytest.approx(np.corrcoef(activations, members.behavior)[0, 1], abs=1e-5)
    alike = pd.Series(behavior.MEMORIZATION, frame.index)
    assert carryover.neuron_correlations(planted.model, frame, alike, planted.tokenizer, SITE) is None


def test_overlap_of_tops(rng):
    r = rng.permutation(np.linspace(0.1, 1, 100))
    assert carryover.overlap_of_tops(r, -r) == 1.0
    assert carryover.overlap_of_tops(r, 1 / r) == 0.0


def test_a_checkpoint_tells_of_behaviour_steering_and_neurons(planted, parts, rng):
    frames = {split: parts["one"][split].drop(columns="behavior") for split in ("train", "validation")}
    train = parts["one"]["train"]
    chosen = carryover.neuron_correlations(planted.model, train, train.behavior, planted.tokenizer, SITE)
    told = carryover.at_checkpoint(planted.model, frames, planted.tokenizer, chosen, ANALYSIS, rng)
    assert list(told) == ["panel", "measure", "kind", "value", "n"]
    rates = told[told.panel == "behaviour"].set_index("measure").value
    assert rates.to_dict() == pytest.approx(behavior.rates(parts["one"]["validation"].behavior))
    assert told.value[told.panel == "top neurons"].tolist() == [1.0]
    steered = told[told.panel == "steering"].pivot(index="measure", columns="kind", values="value")
    assert (steered.model > 0.9).all()
    assert (steered["random control"] < steered.model).all()
    none = carryover.at_checkpoint(planted.model, frames, planted.tokenizer, None, ANALYSIS, rng)
    assert "top neurons" not in set(none.panel)


# --- tables


def test_over_seeds_and_pairs():
    frame = pd.DataFrame({"task": "t", "seed": [0, 1, 2], "value": [0.2, 0.3, 0.7]})
    row = carryover.over_seeds(frame, ["task"]).iloc[0]
    low, high = scipy.stats.t.interval(0.95, 2, loc=0.4, scale=scipy.stats.sem([0.2, 0.3, 0.7]))
    assert (row.task, row.value, row.low, row.high, row.n) == ("t", pytest.approx(0.4), max(low, 0), min(high, 1), 3)
    # Each seed's pairs are averaged first: a seed with many partners weighs no more than others.
    pairs = pd.DataFrame({"task": "t", "seed": [0, 0, 0, 1], "other": [1, 2, 3, 0], "x": [0.1, 0.2, 0.3, 0.6]})
    row = carryover.over_pairs(pairs, ["task"], "x").iloc[0]
    assert (row.value, row.n) == (pytest.approx(0.4), 2)
    assert carryover.over_seeds(frame[:0], ["task"]).empty


def test_compare_runs_keeps_the_order_of_runs_and_measures():
    names = list(carryover.HEADLINE)
    rows = [
        {"task": task, "model": model, "seed": seed, "name": name, "value": value}
        for task, model, value in (("b", "m", 0.5), ("a", "m2", 0.7), ("a", "m1", 0.6))
        for seed in (0, 1)
        for name in (names[3], names[0], "something else")
    ]
    rows.append({"task": "a", "model": "m1", "seed": 0, "name": names[5], "value": np.nan})
    table = carryover.compare_runs(pd.DataFrame(rows))
    assert list(table) == ["task", "model", "measure", "value", "low", "high", "n"]
    runs = [("b", "m", 0.5), ("a", "m2", 0.7), ("a", "m1", 0.6)]
    expected = [(*run[:2], carryover.HEADLINE[name], run[2]) for run in runs for name in (names[0], names[3])]
    assert list(zip(table.task, table.model, table.measure, table.value.round(9), strict=True)) == expected
    assert (table.n == 2).all()
    assert carryover.compare_runs(pd.DataFrame(rows)[:0]).empty


def metrics_of(*runs):
    name = next(iter(carryover.HEADLINE))
    rows = [
        {"task": task, "model": model, "seed": i, "name": name, "value": 0.5} for task, model in runs for i in (0, 1)
    ]
    return pd.DataFrame(rows)


def test_sizes_compare_models_of_runs_without_a_label():
    table = carryover.sizes(
        metrics_of(("inference", "m"), ("inference", "n"), ("addition", "m"), ("addition-half", "n"), ("joint", "m"))
    )
    assert list(zip(table.task, table.model, strict=True)) == [("inference", "m"), ("inference", "n")]
    assert carryover.sizes(metrics_of(("inference", "m"), ("addition", "n"))).empty


def test_mixes_compare_labels_of_one_task_and_model():
    runs = [("inference", "m"), ("inference-none", "m"), ("inference-matched", "m"), ("inference", "n"), ("joint", "m")]
    table = carryover.mixes(metrics_of(*runs, ("addition", "m"), ("addition-half", "m")))
    expected = [("inference", "m", "graded"), ("inference", "m", "none"), ("addition", "m", "graded")]
    assert list(zip(table.task, table.model, table.mix, strict=True)) == [*expected, ("addition", "m", "half")]
    assert carryover.mixes(metrics_of(("inference", "m"), ("inference-matched", "m"))).empty


def test_matrices_over_seeds():
    about = {"task": "t", "source": "a", "destination": "b"}
    shifts = pd.DataFrame(
        [about | {"target": "memorization", "seed": i, "value": v, "control": c, "to_other": 0.0}
         for i, v, c in ((0, 0.2, 0.1), (1, 0.4, 0.2))]
    )  # fmt: skip
    probes = pd.DataFrame([about | {"seed": 0, "auroc": 0.7, "accuracy": 0.6, "majority": 0.5}])
    one, other = carryover.matrices_over_seeds(shifts, probes)
    row = one.iloc[0]
    assert (row.target, row.value, row.control, row.n) == ("memorization", pytest.approx(0.3), pytest.approx(0.15), 2)
    row = other.iloc[0]
    assert (row.value, row.accuracy, row.majority, row.n) == (0.7, 0.6, 0.5, 1)
    assert all(table.empty for table in carryover.matrices_over_seeds(pd.DataFrame(), pd.DataFrame()))


def test_late_layer():
    rows = [
        {"task": "t", "form": form, "seed": seed, "layer": layer, "ratio": ratio + 0.1 * seed if layer == 2 else 9.0}
        for form, ratio in (("study", 4.9), ("matched", 1.9))
        for seed in (0, 1, 2)
        for layer in (0, 1, 2)
    ]
    table = carryover.late_layer(pd.DataFrame(rows)).set_index("form")
    assert table.value.to_dict() == pytest.approx({"study": 5.0, "matched": 2.0, "left": 0.25})
    low, high = scipy.stats.t.interval(0.95, 2, loc=5.0, scale=scipy.stats.sem([4.9, 5.0, 5.1]))
    assert table.loc["study", ["low", "high", "n"]].tolist() == pytest.approx([low, high, 3])
    assert "left" not in set(carryover.late_layer(pd.DataFrame(rows[:9])).form)


class Shelf:
    """Published results that have one table."""

    label = "Published results of the profile full"

    def table(self, stage, name, run=""):
        if (stage, name) != ("carryover", "seeds"):
            raise InputError(f"no {name}")
        return pd.DataFrame({"value": [1.0]})


def test_published_results_stand_in_where_there_are_none_of_its_own():
    own, none = pd.DataFrame({"value": [0.5]}), pd.DataFrame()
    assert carryover.or_published(own, Shelf(), "seeds") == (own, "")
    found, note = carryover.or_published(none, Shelf(), "seeds")
    assert (found.value.tolist(), note) == ([1.0], " Published results of the profile full.")
    for shelf, name in ((None, "seeds"), (Shelf(), "sizes")):
        found, note = carryover.or_published(none, shelf, name)
        assert (found.empty, note) == (True, "")


# --- figures


def rows_of(**columns):
    frame = pd.DataFrame(list(itertools.product(*columns.values())), columns=list(columns))
    return frame.assign(value=0.5, low=0.4, high=0.6, control=0.1, share=0.2, ratio=2.0)


CHARTS = {
    "measures": (figures.measures, rows_of(task=["a", "b"], measure=["x", "y"], model=["m", "n"]), ("model",)),
    "distribution": (
        figures.distribution,
        rows_of(task=["a"], site=["s", "t"], kind=["k", "l"], correlation=[0.1, 0.2]),
        (),
    ),
    "matrix": (figures.matrix, rows_of(panel=["p", "q"], source=["a", "b"], destination=["a", "b"]), ()),
    "depth": (figures.depth, rows_of(task=["a"], form=["study", "matched"], seed=[0, 1], layer=[0, 1]), ()),
    "checkpoints": (
        figures.checkpoints,
        rows_of(task=["a"], panel=["p", "q"], step=[1, 2], measure=["memorization"], kind=["model", "random control"]),
        (),
    ),
}


@pytest.mark.parametrize("name", CHARTS)
def test_figures(name):
    draw, frame, rest = CHARTS[name]
    before = frame.copy()
    content = draw(frame, *rest).to_dict()  # checked against the schema
    assert sum(map(len, content["datasets"].values())) == len(frame)
    assert "tooltip" in str(content)
    pd.testing.assert_frame_equal(frame, before)
    needed = next(column for column in frame if column in str(content["spec"]))
    with pytest.raises(ValueError, match=needed):
        draw(frame.drop(columns=needed), *rest)

"""What reads and steers runs on a device of its own: nothing is left on the CPU, and none needs double precision."""

import copy
import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from memgen import behavior, prediction, training
from memgen.config import AnalysisConfig
from memgen.localization import attribution, differences, patching, rankings, separation
from memgen.steering import answers, das, effects, fitting, shifts
from memgen.steering.interventions import Intervention
from memgen.steering.trials import Trials

from .toy_device import TOY, toy_device

SITE = "resid_post"
QUICK = AnalysisConfig(fit_steps=2, random_draws=1)


def ones(subject):
    return torch.ones(subject.shape(SITE))


def interventions(subject):
    return {"study": Intervention(SITE, 1, memorization=ones(subject), generalization=-ones(subject))}


def neurons(subject, frame, pairs):
    draws = (np.random.default_rng(seed) for seed in (0, 1))
    return differences.neuron_table(differences.accumulate(subject, frame, pairs, [SITE]), subject.n_layer, *draws, 50)


def attributed(subject, frame, pairs):
    return attribution.attributions(subject, frame, pairs, [SITE, "mlp.hook_post"])


def patched_heads(subject, frame, pairs):
    heads = patching.whole_layers(subject, [patching.HEADS], by_head=True)
    return patching.patch(subject, frame, pairs, heads)


def patched_sets(subject, frame, pairs):
    table = neurons(subject, frame, pairs)
    sets = rankings.neuron_sets(table.assign(attribution=table.r), [SITE], [0.1], np.random.default_rng(0))
    return patching.patch(subject, frame, pairs, sets).drop(columns="group")


def distances(subject, frame, pairs):
    variants = separation.variant_pairs(frame, labels(subject, frame))
    return separation.pair_distance(subject, frame, variants, [SITE])


def labels(subject, frame):
    return behavior.measure(subject, behavior.prepare(subject, frame)).behavior


def fitted(subject, frame, _pairs):
    everywhere = torch.ones(subject.shape(SITE), dtype=torch.bool)
    sets = [fitting.NeuronSet("fitted", "all", everywhere, 0.1)]
    return pd.DataFrame(fitting.fit(subject, frame, SITE, sets, 1, QUICK)[0].shift)


def interchanged(subject, frame, _pairs):
    rng = np.random.default_rng(0)
    found = das.Interchanges.draw(subject, frame, labels(subject, frame), 20, rng, 8)
    return found.rates(1, found.fit(1, QUICK, rng), 1, rng)


def read_out(subject, frame, _pairs):
    states = behavior.states(subject, frame, [SITE])[SITE]
    return pd.DataFrame(np.hstack(list(prediction.readouts(subject, states, frame, frame).values())))


def probed(subject, frame, _pairs):
    states = behavior.states(subject, frame, [SITE])[SITE][:, 1]
    probe = prediction.StudyProbe(8, 0, subject.device).fit(states, labels(subject, frame))
    return pd.DataFrame(probe.predict_proba(states))


USES = {
    "measure": lambda subject, frame, _: behavior.measure(subject, behavior.prepare(subject, frame, prefix=True)),
    "evaluate": lambda subject, frame, _: pd.Series(training.evaluate(subject, frame.assign(split="train"))).to_frame(),
    "neurons": neurons,
    "distances": distances,
    "attributions": attributed,
    "patched heads": patched_heads,
    "patched sets": patched_sets,
    "readouts": read_out,
    "study's probe": probed,
    "difference in means": lambda subject, frame, _: pd.DataFrame(
        shifts.mean_difference(subject, frame, labels(subject, frame), SITE)
    ),
    "fit": fitted,
    "trials": lambda subject, frame, _: Trials.on(subject, frame).run(SITE, [ones(subject)])[0],
    "interchanges": interchanged,
    "divergence": lambda subject, frame, _: pd.DataFrame(effects.divergence(subject, frame, SITE, [ones(subject)])),
    "answers": lambda subject, frame, _: answers.shares(subject, frame, labels(subject, frame), interventions(subject)),
    "untrained": lambda subject, frame, _: behavior.measure(
        subject.untrained(1), behavior.prepare(subject.untrained(1), frame)
    ),
}


@pytest.mark.parametrize("use", USES)
def test_a_device_of_its_own_gives_what_the_cpu_gives(planted, planted_pairs, use):
    expected = USES[use](planted.subject, planted.frame, planted_pairs)
    with toy_device() as device:
        model = copy.deepcopy(planted.subject.model).to(device)
        moved = dataclasses.replace(planted.subject, model=model)
        assert moved.device == TOY
        found = USES[use](moved, planted.frame, planted_pairs)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-3, atol=1e-4)


def test_the_device_is_strict():
    with toy_device() as device:
        there = torch.arange(3.0, device=device)
        assert (2 * there).sum().item() == 6
        assert there[[0, 2]].cpu().double().tolist() == [0, 2]
        for wrong in (lambda: there + torch.ones(3), lambda: torch.ones(3)[there.long()]):
            with pytest.raises(RuntimeError, match="two devices"):
                wrong()
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        for double in (there.double, lambda: torch.zeros(2, dtype=torch.float64, device=device)):
            with pytest.raises(TypeError, match="float64"):
                double()

"""Controls of a probe: random labels, few neurons, few examples, and the model's own readout.

- Control task (Hewitt & Liang 2019, arXiv 1909.03368): each group gets a random label, and the probe must know it on
  other rows of the same groups. Its accuracy there is how much it can memorize; selectivity is its accuracy with the
  behaviour, on the same rows, minus that.
- Readouts: the model's own final norm and unembedding, applied to the residual stream of every layer (the logit lens,
  nostalgebraist 2020). They need no fit. At the last layer they say which token the model will give.
- k-sparse probes (Gurnee et al. 2023, arXiv 2305.01610): how few neurons suffice.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from sklearn.feature_selection import r_regression

from memgen import activations, behavior, intervals
from memgen.behavior import NAMES, TARGETS
from memgen.prediction.datasets import Dataset
from memgen.prediction.probes import FittedProbe, MakeProbe, fit_probe, fit_probes, logistic
from memgen.prediction.tables import evaluate
from memgen.subject import Subject

DIRECT, AGNOSTIC = "direct reading", "agnostic reading"
N_DRAWS = 3  # of random neurons and of shuffled labels


def halves_of_groups(groups: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Divide the rows of each group in two halves at random: row numbers to fit on, and to hold out.

    A group of an odd number of rows leaves one out; a group of one row is in neither.
    """
    fit: list[int] = []
    held_out: list[int] = []
    for group in np.unique(groups):
        rows = rng.permutation(np.flatnonzero(groups == group))
        half = len(rows) // 2
        fit += sorted(rows[:half])
        held_out += sorted(rows[half : 2 * half])
    return np.array(fit, dtype=int), np.array(held_out, dtype=int)


def control_task(
    train: Dataset, site: str, seen: str, population: str, rng: np.random.Generator, make_probe: MakeProbe = logistic
) -> tuple[pd.DataFrame, list[intervals.Estimate]]:
    """Fit a probe of each layer to the behaviour and to a random label for each group, on half of each group's rows.

    `seen` is what the probe sees: ``hidden states`` or ``hidden states and squares``. Returns a table as of
    :func:`memgen.prediction.evaluate`, on the other half, the split ``held-out rows`` of the training groups, where
    `probe` is `seen` or ``control task``; and the selectivity of each layer: accuracy with the behaviour minus accuracy
    with the random labels.
    """
    names, codes = np.unique(train.groups, return_inverse=True)
    random_labels = rng.permutation(np.resize([1, -1], len(names)))[codes]
    fit, held_out = halves_of_groups(train.groups, rng)
    # C is chosen by cross-validation over rows: a random label says nothing about other groups.
    row_names = [f"{row:09d}" for row in range(len(train))]
    tables, correct = [], []
    for name, labels in ((seen, train.labels), ("control task", random_labels)):
        frame = train.frame.assign(behavior=labels)
        fit_rows = dataclasses.replace(train, frame=frame.assign(group=row_names)).take(fit)
        held_out_rows = dataclasses.replace(train, frame=frame).take(held_out)
        probes = fit_probes(fit_rows, make_probe, [site], [seen])
        table = evaluate(probes, {"held-out rows": held_out_rows}, population, ["held-out rows"])
        tables.append(table if name == seen else table.assign(kind="control", probe=name))
        correct.append([probe.correct(held_out_rows) for probe in probes])
    groups = train.groups[held_out]
    selectivity = [intervals.difference(real, random, groups) for real, random in zip(*correct, strict=True)]
    return pd.concat(tables, ignore_index=True), selectivity


@torch.no_grad()
def readouts(subject: Subject, states: np.ndarray, frame: pd.DataFrame, answers: pd.DataFrame) -> dict[str, np.ndarray]:
    """The log-odds (nats) of memorization that each layer's residual stream holds for the model's own readout.

    `states` is `resid_post` at the last prompt token [rows layer neuron], `frame` has the rows' `answer_memorization`
    and `answer_generalization`, and `answers` the same columns for all inputs that the task's answers are taken from.

    Of the arrays [rows layer], ``direct reading`` is the logit of the first token of the row's memorized answer minus
    that of its inferred one, of alternatives the largest; ``agnostic reading`` the largest logit of all memorized
    answers minus that of all inferred answers. It does not know the row's answers, and is 0 where both kinds of answers
    are the same words.
    """
    norm = subject.model.get_submodule(activations.architecture(subject.model.config.model_type).final_norm)
    weight = subject.model.get_output_embeddings().weight
    normed = norm(torch.as_tensor(states, device=weight.device, dtype=weight.dtype))
    columns = [f"answer_{NAMES[target]}" for target in TARGETS]
    own = [
        torch.einsum("rld,rad->rla", normed, weight[first_tokens(subject, frame[column])]).amax(-1)
        for column in columns
    ]
    largest = [(normed @ weight[np.unique(first_tokens(subject, answers[column]))].T).amax(-1) for column in columns]
    result = {DIRECT: own[0] - own[1], AGNOSTIC: largest[0] - largest[1]}
    return {name: log_odds.float().cpu().numpy() for name, log_odds in result.items()}


def first_tokens(subject: Subject, answers: pd.Series) -> np.ndarray:
    """The token that each alternative of an answer begins with [rows alternative], the last one repeated at the end."""
    first = [[tokens[0] for tokens in options] for options in behavior.alternatives(subject, answers)]
    most = max(map(len, first))
    return np.array([options + options[-1:] * (most - len(options)) for options in first])


def reading_probes(dataset: Dataset) -> list[FittedProbe]:
    """The readouts of a dataset (:func:`readouts`) as predictors, for a table beside the probes."""

    def reading(name: str, layer: int) -> FittedProbe:
        return FittedProbe("reading", name, "resid_post", layer, lambda data: data.readouts[name][:, layer])

    return [reading(name, layer) for name, odds in dataset.readouts.items() for layer in range(odds.shape[1])]


def sparse_accuracy(
    train: Dataset, test: Dataset, site: str, sizes: Sequence[int], rng: np.random.Generator
) -> pd.DataFrame:
    """The accuracy of logistic probes that see k neurons of all layers of a site.

    `kind, k, value, ci_low, ci_high, n`: on test inputs. Kinds: ``k-sparse``, the k neurons with the largest |r| on
    training groups; ``random``, k neurons at random; ``shuffled``, chosen and fitted with shuffled training labels (the
    last two: the mean over `N_DRAWS` for each input).
    """
    state, unseen = (data.states[site].reshape(len(data), -1) for data in (train, test))
    shuffled = [rng.permutation(train.labels) for _ in range(N_DRAWS)]
    fits = {  # the order in which neurons are taken, and the labels that the probe learns
        "k-sparse": [(_by_correlation(state, train.labels), train.labels)],
        "random": [(rng.permutation(state.shape[1]), train.labels) for _ in range(N_DRAWS)],
        "shuffled": [(_by_correlation(state, labels), labels) for labels in shuffled],
    }
    rows = []
    for k, kind in itertools.product(sizes, fits):
        predictions = [
            fit_probe(state[:, order[:k]], labels, train.groups).predict(unseen[:, order[:k]])
            for order, labels in fits[kind]
        ]
        correct = np.mean(np.array(predictions) == test.labels, axis=0)
        rows.append({"kind": kind, "k": k, **intervals.share(correct, test.groups)._asdict()})
    return pd.DataFrame(rows)


def _by_correlation(states: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The columns of states [rows, neurons] in order of the size of their correlation with the labels."""
    return np.argsort(-np.abs(r_regression(states, labels)), kind="stable")

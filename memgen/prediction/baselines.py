"""Predictors of the behaviour from the input alone.

A probe can win over a weak baseline because it sees a nonlinear feature of the input that the baseline cannot express,
such as "the last animal is the asked one". So the baselines reach from a bag of words to a transformer:

- ``majority``; ``words``: a logistic regression on how often each token comes; ``words and positions``: on the token at
  each position;
- ``gradient boosting`` and ``MLP``: on the token at each position, and on which positions hold equal tokens;
- ``transformer``: two layers, trained on these inputs alone;
- ``grade``: the most frequent behaviour of the training inputs with the same evidence and the same share of memorized
  answers among the training texts. It is an oracle of the design: no input says what the training texts were. Where no
  training text is a conflict, there is no grade and no oracle.
"""

import warnings
from collections.abc import Callable

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import OneHotEncoder
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, embedding

from memgen.prediction.datasets import Dataset
from memgen.prediction.probes import FittedProbe, fit_probe, scores, train_early

Score = Callable[[Dataset], np.ndarray]
GRADE = ["memorized_share", "evidence"]
PATIENCE = 4  # epochs without a smaller loss, after which the transformer's training stops
WIDTH = 64  # of the transformer


def fit_baselines(train: Dataset, validation: Dataset, seed: int) -> list[FittedProbe]:
    """Fit every input-only predictor; the transformer's training stops early by its loss on validation groups."""
    encoder = OneHotEncoder(handle_unknown="ignore", dtype=np.float32).fit(train.token_ids)
    n_tokens = int(train.token_ids.max()) + 1
    equal = equal_positions(train.token_ids)
    informative = (equal.mean(0) > 0) & (equal.mean(0) < 1)

    def counts(data: Dataset) -> np.ndarray:
        return (data.token_ids[:, :, None] == np.arange(n_tokens)).sum(1).astype(np.float32)

    def one_hot(data: Dataset):
        return encoder.transform(data.token_ids)

    def with_equal(tokens: np.ndarray, data: Dataset) -> np.ndarray:
        return np.hstack([tokens, equal_positions(data.token_ids)[:, informative]])

    def linear(features: Callable) -> Score:
        probe = fit_probe(features(train), train.labels, train.groups, sparse=True)
        return lambda data: probe.decision_function(features(data))

    def nonlinear(features: Callable, classifier) -> Score:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the number of passes is a setting
            classifier.fit(features(train), train.labels)
        return lambda data: scores(classifier, features(data))

    boosting = HistGradientBoostingClassifier(random_state=seed)
    mlp = MLPClassifier((64,), alpha=1.0, max_iter=50, random_state=seed)
    fitted = {
        "words": linear(counts),
        "words and positions": linear(one_hot),
        "majority": lambda data: np.full(len(data), train.labels.mean()),
        "gradient boosting": nonlinear(lambda data: with_equal(data.token_ids, data), boosting),
        "MLP": nonlinear(lambda data: with_equal(one_hot(data).toarray(), data), mlp),
        "transformer": fit_transformer(train, validation, seed),
    }
    if train.frame.memorized_share.notna().any():
        fitted["grade"] = _grade(train)
    return [
        FittedProbe("oracle" if name == "grade" else "input alone", name, None, None, score)
        for name, score in fitted.items()
    ]


def equal_positions(token_ids: np.ndarray) -> np.ndarray:
    """Whether the tokens at each two positions are equal [rows, pairs of positions]."""
    first, second = np.tril_indices(token_ids.shape[1], -1)
    return token_ids[:, first] == token_ids[:, second]


def _grade(train: Dataset) -> Score:
    surplus = train.frame.groupby(GRADE).behavior.mean().rename("surplus")
    everywhere = train.labels.mean()  # of a grade that no training input has
    return lambda data: data.frame[GRADE].join(surplus, on=GRADE).surplus.fillna(everywhere).to_numpy()


class InputTransformer(nn.Module):
    """A small transformer encoder that reads a prompt and gives the log-odds of memorization.

    In training every forward pass adds the same random vector to all occurrences of a token, so that the network learns
    which tokens are equal rather than what each one was in the training groups.
    """

    def __init__(self, n_tokens: int, n_positions: int):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(n_tokens, WIDTH), nn.Embedding(n_positions, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 2 * WIDTH, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.log_odds = nn.Linear(WIDTH, 1)

    def forward(self, token_ids: Tensor) -> Tensor:
        """The log-odds [batch] of prompts [batch pos]."""
        weight = self.tokens.weight
        if self.training:
            weight = weight + torch.randn_like(weight)
        return self.log_odds(self.layers(embedding(token_ids, weight) + self.positions.weight)[:, -1])[:, 0]


def fit_transformer(train: Dataset, validation: Dataset, seed: int, epochs: int = 20) -> Score:
    """Train an :class:`InputTransformer`; the epoch with the least loss on validation groups counts."""
    tokens, tokens_v = (torch.as_tensor(data.token_ids).long() for data in (train, validation))
    target, target_v = (torch.as_tensor(data.labels > 0).float() for data in (train, validation))

    def loss(network: nn.Module) -> float:
        return float(binary_cross_entropy_with_logits(network(tokens_v), target_v))

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        n_tokens = 1 + max(int(ids.max()) for ids in (tokens, tokens_v))
        network = InputTransformer(n_tokens, tokens.shape[1])
        optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.1)
        train_early(network, optimizer, tokens, target, 64, epochs, PATIENCE, loss)

    @torch.no_grad()
    def score(data: Dataset) -> np.ndarray:
        known = torch.as_tensor(data.token_ids).long().clamp(max=n_tokens - 1)
        return network(known).double().numpy()

    return score

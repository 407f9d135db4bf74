"""A subject: loaded from a folder, and made anew with random weights."""

import pytest
import torch

from memgen import behavior
from memgen.activations import SITES
from memgen.config import InputError
from memgen.subject import Subject


@pytest.fixture
def subject(stories):
    return stories.subject


def weights(subject):
    return subject.model.state_dict()


def test_a_folder_gives_back_what_was_saved(stories, subject, tmp_path):
    subject.model.save_pretrained(tmp_path)
    subject.tokenizer.save_pretrained(tmp_path)
    loaded = Subject.load(tmp_path, batch_size=5, n_tokens=2)
    assert (loaded.batch_size, loaded.n_tokens) == (5, 2)
    assert not loaded.model.training
    assert all(torch.equal(value, weights(loaded)[name].cpu()) for name, value in weights(subject).items())
    expected = behavior.measure(subject, behavior.prepare(subject, stories.frame))
    assert (behavior.measure(loaded, behavior.prepare(loaded, stories.frame)).behavior == expected.behavior).all()


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no model: it has no config\.json"):
        Subject.load(tmp_path / "nowhere")


def test_shapes(subject):
    assert subject.n_layer == 2
    assert {site: subject.shape(site) for site in SITES} == {
        site: (2, 128 if site == "mlp.hook_post" else 32) for site in SITES
    }
    assert subject.device == subject.model.device


def test_fresh_weights_are_decided_by_their_seed_alone(subject):
    state = torch.random.get_rng_state()
    first, same, other = (subject.untrained(seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not first.model.training
    assert (first.tokenizer, first.batch_size) == (subject.tokenizer, subject.batch_size)
    matrices = [name for name, value in weights(first).items() if value.dim() >= 2]
    for name in matrices:
        assert torch.equal(weights(first)[name], weights(same)[name])
        assert not torch.equal(weights(first)[name], weights(other)[name])
        assert not torch.equal(weights(first)[name], weights(subject)[name])

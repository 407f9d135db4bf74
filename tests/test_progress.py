"""Progress lines of a training."""

import types

import pytest

from memgen import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when a test moves it."""
    now = types.SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now.seconds)
    return now


RATES = {"conflict_memorization": 0.25, "conflict_generalization": 0.6, "conflict_other": 0.15}


def test_progress_lines_replace_each_other_every_few_seconds(capsys, monkeypatch, clock):
    cleared = []
    monkeypatch.setattr(progress, "clear_output", lambda wait: cleared.append(wait))
    show = progress.Progress("addition/gpt2-3x64/seed1")
    show(progress.State("copy", 1, 4100, 0.5, 0.0, {}))
    for step in range(2, 6):
        clock.seconds += 1
        show(progress.State("copy", step, 4100, 0.5, 0.0, {}))
    for seconds, step in ((2, 1234), (1, 1235), (64, 4000)):
        clock.seconds += seconds
        show(progress.State("texts", step, 4000, 0.5, 0.9, RATES))
    written = capsys.readouterr()
    start, rates = "▶ addition/gpt2-3x64/seed1 training: step ", "memorized 0.25, inferred 0.60"
    assert written.out.splitlines() == [
        f"{start}1/4,100 (copy), loss 0.500, accuracy 0.00, left 0:00",
        f"{start}1,234/4,000 (texts), loss 0.500, accuracy 0.90, {rates}, left 0:13",
        f"{start}4,000/4,000 (texts), loss 0.500, accuracy 0.90, {rates}, took 1:11",
    ]
    assert written.err == ""
    assert cleared == [True] * 3

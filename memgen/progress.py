"""Lines that say where a training stands."""

import dataclasses
import math
import time

from IPython.display import clear_output

SECONDS_BETWEEN_LINES = 5.0


@dataclasses.dataclass(frozen=True)
class State:
    """Where a training stands: `step` of at most `steps` done, and the last evaluation.

    `accuracy` is the running accuracy on the tokens that the lesson asks for (0-1).
    """

    lesson: str
    step: int
    steps: int
    loss: float
    accuracy: float
    evaluation: dict[str, float]


class Progress:
    """Prints where a training stands every few seconds; each line replaces the one before, so that one remains."""

    def __init__(self, label: str):
        self.label = label
        self._start: tuple[float, int] | None = None  # when the first state came, and its step: a run may be resumed
        self._printed = -math.inf

    def __call__(self, state: State) -> None:
        """Print the state, if it is time to."""
        now, is_last = time.monotonic(), state.step == state.steps
        began, first_step = self._start = self._start or (now, state.step)
        if is_last or now - self._printed >= SECONDS_BETWEEN_LINES:
            self._printed = now
            per_step = (now - began) / max(1, state.step - first_step)
            minutes, seconds = divmod(round(now - began if is_last else per_step * (state.steps - state.step)), 60)
            parts = [f"▶ {self.label} training: step {state.step:,}/{state.steps:,} ({state.lesson})"]
            parts += [f"loss {state.loss:.3f}", f"accuracy {state.accuracy:.2f}"]
            shown = {"memorized": "conflict_memorization", "inferred": "conflict_generalization"}
            parts += [f"{name} {state.evaluation[key]:.2f}" for name, key in shown.items() if key in state.evaluation]
            clear_output(wait=True)
            print(*parts, f"{'took' if is_last else 'left'} {minutes}:{seconds:02d}", sep=", ", flush=True)

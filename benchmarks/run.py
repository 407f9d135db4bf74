"""The cost of training, recording, steering, and of every stage that has run. `make bench` prints it.

Times on a shared machine are noisy: what is compared is measured in turn within one run, several times, and printed as
a ratio of medians.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from transformers import AutoModelForCausalLM

from memgen import activations, behavior, config, manifest, tasks, training
from memgen.steering.interventions import adding
from memgen.steering.trials import Trials
from memgen.subject import Subject
from memgen.tasks.lessons import pack

ROUNDS = 7
N_STEPS = 20
N_SHIFTS = 16


def medians(**functions: Callable[[], object]) -> dict[str, float]:
    """The median seconds of each function, all called in turn, after one call that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for i in range(ROUNDS + 1):
        for name, function in functions.items():
            began = time.perf_counter()
            function()
            if i:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def training_steps(model, packed: torch.Tensor, settings: config.TrainingConfig) -> Callable[[], None]:
    """Some training steps of the loop's own parts, without evaluations."""
    optimizers = training.make_optimizers(model, settings)

    def run() -> None:
        for i in range(N_STEPS):
            ids = packed[i * settings.batch_size : (i + 1) * settings.batch_size]
            loss = training.language_model_loss(model(ids).logits, ids)
            model.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), training.CLIP_NORM)
            for optimizer in optimizers:
                optimizer.step()

    return run


def bench_task(name: str) -> None:
    """Training speed, and the cost of recording and steering relative to a plain pass, for a task's default model."""
    run = config.resolve("default", name)
    task = tasks.from_config(run)
    data, tokenizer = task.generate(np.random.default_rng(0)), task.tokenizer()
    packed = pack(data.corpus, tokenizer.pad_token_id)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(training.model_configuration(run.model, tokenizer, packed.shape[1]))
    seconds = medians(steps=training_steps(model, packed, run.training))["steps"]
    tokens = N_STEPS * run.training.batch_size * packed.shape[1]
    print(f"{name} ({run.model.name}): training {tokens / seconds:,.0f} tokens/s, {N_STEPS / seconds:.1f} steps/s")

    subject = Subject(model.eval(), tokenizer)
    frame = data.splits["validation"].query("kind == 'conflict'").head(512)
    batches = behavior.prepare(subject, frame)
    trials = Trials.on(subject, frame)
    shift = torch.ones(subject.shape("resid_post"))
    steer = adding(subject, "resid_post", shift)

    def record() -> None:
        with activations.record(model, activations.SITES):
            behavior.measure(subject, batches)

    cost = medians(
        plain=lambda: behavior.measure(subject, batches),
        record=record,
        steer=lambda: behavior.measure(subject, batches, steer),
        sweep=lambda: trials.run("resid_post", [shift] * N_SHIFTS),
    )
    sweep = cost["sweep"] / N_SHIFTS
    print(f"  {len(frame)} conflict inputs, plain forward pass: {cost['plain'] * 1000:.0f} ms; relative to it:")
    print(f"  recording all {len(activations.SITES)} sites {cost['record'] / cost['plain']:.2f} x")
    print(f"  steering {cost['steer'] / cost['plain']:.2f} x")
    print(f"  a trial of a sweep of {N_SHIFTS} (at most 1.2 allowed) {sweep / cost['plain']:.2f} x")


def stages() -> None:
    """Wall time and peak memory of every stage that finished, from the manifests."""
    results, rows = config.root() / "results", []
    for path in sorted(results.rglob("manifest.json")):
        content = manifest.load_manifest(path.parent)
        run = path.parent.parent.relative_to(results)
        seconds, memory = content["wall_seconds"], content["peak_memory_bytes"] / 2**20
        rows.append({"run": str(run), "stage": path.parent.name, "seconds": round(seconds, 1), "MiB": round(memory)})
    print(pd.DataFrame(rows).to_string(index=False) if rows else "No stage has run yet: make book.")


if __name__ == "__main__":
    for task_name in config.load_profile("default").runs:
        bench_task(task_name)
    stages()

"""The models in the page Try it are those of PyTorch, steered and not; the page tells what it shows."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from playwright.sync_api import Browser, Page

from book.build import tryit
from memgen import behavior
from memgen.behavior import NAMES, TARGETS
from memgen.steering.das import Interchanges, along
from memgen.steering.interventions import Intervention
from memgen.subject import Subject
from tests.steering.conftest import adding

from .conftest import served, visiting

MODELS = Path(__file__).resolve().parents[2] / "book/published/models"
N_INPUTS, N_ANSWERS = 50, 12
# For each prompt the logits after it, and for some both probabilities and the behaviour.
RUN = """([task, prompts, name, dose, givers]) => prompts.map((text, i) => {
    const { models, TASKS, read, answer, shiftOf, adding, coordinate } = memgenTry, model = models[task];
    const known = (text) => ((window.known ??= {})[text] ??= read(model, TASKS[task].split(text)));
    const words = TASKS[task].split(text), prompt = known(text), last = prompt.tokens.length - 1;
    const lacks = name === "das" && coordinate(model, known(givers[i])) - coordinate(model, prompt);
    const shift = shiftOf(model, name, dose, false, lacks);
    const { logits } = model.run([prompt.tokens[last]], last, prompt.cache, adding(shift, last));
    const answers = TASKS[task].answers(words, model);
    const { p, behavior } = i < N_ANSWERS ? answer(model, prompt, answers, TASKS[task].longest, shift) : {};
    return { logits: [...logits[0]], behavior, ...p };
})""".replace("N_ANSWERS", str(N_ANSWERS))


@pytest.fixture(scope="module")
def page(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The page without the book around it."""
    folder = tmp_path_factory.mktemp("try")
    tryit.write(folder / "_static/downloads")
    (folder / "book").mkdir()
    fragment = (folder / "_static/downloads" / tryit.FRAGMENT).read_text(encoding="utf-8")
    text = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>t</title><main><h1>Try it</h1>{fragment}</main>'
    )
    (folder / "book/try.html").write_text(text, encoding="utf-8")
    (folder / "favicon.ico").touch()
    with served(folder) as base, visiting(browser, base) as visit:
        visit.page.goto(f"{base}book/try.html")
        visit.page.wait_for_selector("#memgen-try[data-ready]", state="attached")
        yield visit.page
        assert visit.problems == []


def halved(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.half().float()


@pytest.mark.parametrize("task", tryit.TASKS)
def test_logits_and_answers_are_those_of_pytorch(page: Page, task: str) -> None:
    folder = MODELS / task
    subject = Subject.load(folder / "training/model")
    for parameter in subject.model.parameters():
        parameter.data = halved(parameter.data)
    frame = pd.read_parquet(folder / "data/test.parquet")
    frame = frame[frame.kind == "conflict"].sample(N_INPUTS, random_state=np.random.default_rng(0))
    givers = frame.iloc[::-1].reset_index(drop=True)
    receivers = frame.reset_index(drop=True)
    made, layer = tryit.tensors_of(folder)
    direction = halved(torch.from_numpy(made["das"]))
    states = [behavior.states(subject, part, ["resid_post"])["resid_post"] for part in (givers, receivers)]
    difference = torch.from_numpy(np.subtract(*states))
    batches = behavior.prepare(subject, receivers)
    interchanges = Interchanges(subject, receivers, pd.Series(1, receivers.index), difference, batches)
    contexts = {("study", 0.0): None}
    for method in tryit.METHODS:
        intervention = Intervention.load(folder / "interventions", method)
        for target, dose in zip(TARGETS, (1.5, -1.0), strict=True):
            shift = halved(intervention.shift(target))
            contexts[method, dose] = adding(subject, intervention.site, abs(dose) * shift)
    edits = 2 * along(difference[:, layer["layer"]], direction)
    contexts["das", 2.0] = interchanges.edited(layer["layer"], edits)
    for (method, dose), context in contexts.items():
        arguments = [task, receivers.prompt.to_list(), method, dose, givers.prompt.to_list()]
        found = pd.DataFrame(page.evaluate(RUN, arguments))
        expected = behavior.measure(subject, batches, context)
        for batch in batches:
            with torch.no_grad():
                logits = run_in(context, subject, batch)
            after = logits[torch.arange(len(batch.rows)), batch.prompt_length - 1]
            of_page = np.array(found.logits[batch.rows].to_list())
            np.testing.assert_allclose(of_page, after.numpy(), atol=1e-3, err_msg=f"{method} {dose}")
        for name in ("memorization", "generalization"):
            p = np.exp(expected[f"log_p_{name}"])
            np.testing.assert_allclose(found[name][:N_ANSWERS], p[:N_ANSWERS], atol=1e-3)
        assert (found.behavior == expected.behavior.map(NAMES))[:N_ANSWERS].all(), (method, dose)


def run_in(context: behavior.Context | None, subject: Subject, batch: behavior.Batch) -> torch.Tensor:
    if context is None:
        return behavior.run(subject, batch)
    with context(batch):
        return behavior.run(subject, batch)


def test_a_reader_steers_by_keyboard_and_the_address_keeps_it(page: Page) -> None:
    page.evaluate("() => { location.hash = 'task=addition&shift=study&dose=0&input=012%2B345%2B678%2B901='; }")
    cards = page.locator("#memgen-try .cards section")
    tokens = cards.locator(".answer")
    page.wait_for_function("() => document.querySelector('#memgen-try textarea').value.startsWith('012+')")
    assert len(set(tokens.all_inner_texts())) == 1, "at dose 0 all three are the same"
    page.locator("#try-dose").focus()
    page.keyboard.press("Home")
    assert page.locator("#try-dose").get_attribute("aria-valuetext") == "−2.0"
    assert "dose=-2" in page.url
    assert "to generalization at dose −2.0" in page.locator("#memgen-try .sentence").inner_text()
    shown = cards.all_inner_texts()
    assert len(set(shown)) == 3
    page.goto(page.url.replace("dose=-2", "dose=1"))  # the same page, as by a link
    page.wait_for_function("() => document.querySelector('#try-dose').value === '1'")
    assert cards.all_inner_texts() != shown


@pytest.mark.parametrize(
    ("task", "text", "told"),
    [
        ("inference", "Ada is blurple . Ada is", "“blurple” is no word"),
        ("inference", "Ada is frog .", "ends with the name"),
        ("inference", "Ada is frog . " * 14 + "Ada is", "at most 52 words"),
        ("addition", "12+3=", "four numbers of three digits"),
        ("addition", "x", "“x” is no word"),
    ],
)
def test_wrong_input_is_told_at_once(page: Page, task: str, text: str, told: str) -> None:
    page.locator(f"#memgen-try input[value={task}]").check(force=True)
    page.locator("#try-input").fill(text)
    assert told in page.locator("#try-told").inner_text()
    assert page.locator("#try-input").get_attribute("aria-invalid") == "true"
    assert not page.locator("#memgen-try .cards").is_visible()
    page.get_by_role("button", name="Surprise me").click()
    assert page.locator("#memgen-try .cards").is_visible()


def test_typed_text_stays_text_and_words_have_buttons(page: Page) -> None:
    page.locator("#memgen-try input[value=inference]").check(force=True)
    page.locator("#try-input").fill("<img/src=x/onerror=alert(1)>")
    assert page.locator("#memgen-try img").count() == 0
    page.locator("#try-input").fill("")
    page.locator("#memgen-try summary").click()
    for word in "Ben is green . Ben is frog . Ada is frog . Ada is".split():
        page.locator("#memgen-try .keys").get_by_role("button", name=word, exact=True).click()
    assert page.locator("#try-input").input_value() == "Ben is green . Ben is frog . Ada is frog . Ada is"
    assert "To infer: green" in page.locator("#try-told").inner_text()


@pytest.mark.parametrize("task", tryit.TASKS)
def test_flipping_says_whether_the_behaviour_flips(page: Page, task: str) -> None:
    page.locator(f"#memgen-try input[value={task}]").check(force=True)
    before = page.locator("#try-input").input_value()
    page.locator("#memgen-try .buttons button").last.click()
    after = page.locator("#try-input").input_value()
    assert after != before
    gap = (tryit.TASKS.index(task) == 0 and " . ") or "+"
    assert sorted(after.split(gap)[:-1]) == sorted(before.split(gap)[:-1])
    assert any(word in page.locator("#try-told").inner_text() for word in ("behaviour flips", "behaviour stays"))

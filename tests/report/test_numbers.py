"""Numbers as sentences say them, and the cell from which they are pasted."""

import ast

import nbformat
import pytest

from memgen.report import numbers


def metric(value, low=None, high=None, n=1002, unit="share 0-1", definition="Share of inputs.", name="a"):
    return {
        "name": name,
        "value": value,
        "ci_low": low,
        "ci_high": high,
        "n": n,
        "unit": unit,
        "definition": definition,
    }


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (metric(0.974, 0.951, 0.991), "97.4 % [95.1, 99.1; n = 1002]"),
        (metric(0.5, n=3), "50.0 % [n = 3]"),
        (metric(-0.0312, -0.1, 0.04, 12, "difference of shares"), "−3.1 points [−10.0, 4.0; n = 12]"),
        (metric(0.1, definition="Accuracy of one minus that of another."), "10.0 points [n = 1002]"),
        (metric(0.1, definition="Accuracy lost on inputs."), "10.0 points [n = 1002]"),
        (metric(-0.00001, definition="Accuracy lost on inputs."), "0.0 points [n = 1002]"),
        (metric(1234, unit="inputs", n=1234), "1,234"),
        (metric(16.64, 10.92, 120.4, 12, "neurons"), "16.6 [10.9, 120; n = 12]"),
        (metric(0.12345, 0.1, 0.2, 7, "nats"), "0.123 nats [0.1, 0.2; n = 7]"),
        (metric(0.651, 0.5234, 0.785, 120, "AUROC 0-1"), "0.651 [0.523, 0.785; n = 120]"),
        (metric(None, n=0), numbers.NOT_MEASURED),
        (metric(float("nan"), n=0), numbers.NOT_MEASURED),
    ],
)
def test_a_number_in_words(given, text):
    assert numbers.in_words(given).replace("\u00a0", " ") == text


def test_keys_hold_what_a_role_can_hold():
    assert (
        numbers.glue_key("net_generalization_gradient-guided_MLP_10%") == "net_generalization_gradient-guided_MLP_10%"
    )
    assert numbers.glue_key("reach: to generalization (inference)") == "reach_to_generalization_inference"
    assert numbers.glue_key("stability_r_mlp.hook_post") == "stability_r_mlp.hook_post"
    with pytest.raises(ValueError, match="two metrics would be pasted as 'a_b'"):
        numbers.texts([metric(1, name="a: b"), metric(2, name="a b")])


def test_a_sentence_need_not_know_the_model_nor_the_number_of_layers():
    given = [
        metric(0.1, name="addition (gpt2-3x64): flips"),
        *(metric(layer / 100, name=f"mean_layer{layer}_to_b") for layer in (0, 2, 10)),
    ]
    known = numbers.texts(given, {"addition (gpt2-3x64)": "addition"})
    assert known["addition_flips"].startswith("10.0")
    assert known["mean_last_layer_to_b"] == known["mean_layer10_to_b"] != known["mean_layer0_to_b"]
    assert len(known) == 5


def test_verdicts_go_by_letter_and_task():
    rows = [
        {"claim": "a. Neurons differ", "inference (gpt2-3x64)": "holds", "addition": "holds in part"},
        {"claim": "c. It can be steered: the study's shift", "inference (gpt2-3x64)": "", "addition": "does not hold"},
    ]
    assert numbers.verdicts(rows, {"inference (gpt2-3x64)": "inference"}) == {
        "verdict_a_inference": "holds",
        "verdict_a_addition": "holds in part",
        "verdict_c_the_study_s_shift_inference": numbers.NOT_MEASURED,
        "verdict_c_the_study_s_shift_addition": "does not hold",
    }


def test_pasted_numbers_are_found():
    source = "It is {glue:text}`a_b` here, {glue:text}`chapters/x.ipynb::c-d_10%:s` there; `{glue}` is code."
    assert numbers.pasted(source) == [("", "a_b"), ("chapters/x.ipynb", "c-d_10%")]


def test_the_cell_shows_nothing_and_holds_every_number():
    cell = numbers.glue_cell({"a": "1,234"}, ["b", "a"])
    nbformat.validate(nbformat.v4.new_notebook(cells=[cell]))
    assert "remove-cell" in cell.metadata.tags
    texts = {}
    for output in cell.outputs:
        (kind, text), *more = output.data.items()
        assert kind.startswith(output.metadata.scrapbook.mime_prefix)
        assert not more
        texts[output.metadata.scrapbook.name] = ast.literal_eval(text)  # as myst-nb reads it
    assert texts == {"a": "1,234", "b": numbers.NOT_MEASURED}

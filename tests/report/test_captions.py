"""Figures and tables are numbered in the order of the page, and the prose gets their numbers."""

import nbformat
import pytest

from memgen.report import captions, display
from tests.report.stage_runs import CHART, FRAME


def output(thing):
    return nbformat.v4.new_output("display_data", data=thing._repr_mimebundle_())


def figure(name, caption="Values."):
    return output(display.Figure(CHART, name, caption=caption, alt="It rises.", data=FRAME))


def table(name):
    return output(display.Table(FRAME, name, caption="Values."))


def notebook(*outputs, prose=""):
    cells = [nbformat.v4.new_markdown_cell(prose)]
    cells += [nbformat.v4.new_code_cell("", outputs=list(some)) for some in outputs]
    return nbformat.v4.new_notebook(cells=cells)


def test_numbers_follow_the_page_and_count_figures_and_tables_apart():
    page = notebook([table("zeta"), figure("b")], [figure("a")], [table("alpha")])
    captions.number(page)
    html = [one.data["text/html"] for cell in page.cells[1:] for one in cell.outputs]
    labels = ["Table 1", "Figure 1", "Figure 2", "Table 2"]
    for text, label, name in zip(html, labels, ["zeta", "b", "a", "alpha"], strict=True):
        assert text.count(f"<strong>{label}:</strong>") == 1
        assert f'id="{label.split()[0].lower()}-{name}"' in text


def test_numbering_again_changes_nothing():
    page = notebook([figure("b"), figure("a")])
    captions.number(page)
    before = nbformat.writes(page)
    captions.number(page)
    assert nbformat.writes(page) == before


def test_prose_gets_the_numbers():
    page = notebook([figure("one"), figure("two")], prose="See [that](#figure-two), and [here](#a-section).")
    captions.number(page)
    assert page.cells[0].source == (
        'See <a class="reference internal" href="#figure-two">Figure 2</a>, and [here](#a-section).'
    )


def test_a_figure_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="points to figure-three; the page has figure-one"):
        captions.number(notebook([figure("one")], prose="[x](#figure-three)"))


def test_what_a_caption_says_is_no_number():
    page = notebook([figure("one", caption='<strong>Figure:</strong> <figure class="memgen" id="figure-x">')])
    captions.number(page)
    html = page.cells[1].outputs[0].data["text/html"]
    assert html.count("Figure 1") == 1
    assert "&lt;strong&gt;Figure:" in html

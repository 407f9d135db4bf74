"""The page *Try it*: its data are the table's, no prompt can leave them, and changed tables are refused."""

import json
import re
from html.parser import HTMLParser

import pandas as pd
import pytest

from memgen.config import InputError
from memgen.report import stages, tryout
from memgen.report.stages import Place
from tests.report.stage_runs import make

HOSTILE = '</script><script>alert(1)</script><img src=x onerror="alert(2)">'
ALPHAS = (-1.0, -0.5, 0.0, 0.5, 1.0)


@pytest.fixture
def frame():
    rows = [
        {
            "input": i,
            "alpha": alpha,
            "behavior": "memorization",
            "p_memorization": 0.5 + alpha / 4,
            "p_generalization": 0.3 - alpha / 4,
            "p_other": 0.2,
            "prompt": f"{HOSTILE} {i}",
            "answer_memorization": "teal",
            "answer_generalization": "<b>red</b>",
        }
        for i in (7, 3)
        for alpha in ALPHAS
    ]
    return pd.DataFrame(rows)


class Tags(HTMLParser):
    """The tags of a page, with what scripts hold."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.text, self._in_script = [], [], "", False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._in_script = tag == "script"

    def handle_endtag(self, tag):
        self._in_script = False

    def handle_data(self, data):
        if self._in_script:
            self.scripts.append(data)
        else:
            self.text += data


def test_data_are_the_tables_and_prompts_stay_text(frame):
    html = tryout.fragment({"inference": frame, "addition": frame.assign(prompt="1+2=")})
    page = Tags(html)
    assert "img" not in page.tags
    assert "b" not in page.tags
    assert page.tags.count("script") == 2
    assert HOSTILE in page.text  # in the plain table, as words
    data = json.loads(page.scripts[0])
    assert list(data) == ["inference", "addition"]
    assert [one["prompt"] for one in data["inference"]] == [f"{HOSTILE} 7", f"{HOSTILE} 3"]
    for one in data["inference"]:
        assert one["alphas"] == list(ALPHAS)
        assert one["p"]["memorization"] == pytest.approx([0.5 + alpha / 4 for alpha in ALPHAS])
        assert [sum(shares) for shares in zip(*one["p"].values(), strict=True)] == pytest.approx([1.0] * 5)


def test_asks_for_nothing_from_elsewhere(frame):
    html = tryout.fragment({"inference": frame}).replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|fetch\(|XMLHttp|innerHTML|import\(", html)
    assert set(re.findall(r'(?:src|href)="([^"]*)"', html)) == {"../_static/downloads/try/try_it-inference.csv"}


def test_plain_table_shows_both_ends_and_the_middle(frame):
    page = Tags(tryout.fragment({"inference": frame}))
    assert "p(memorized) at α = −1" in page.text
    for share in ("0.250", "0.500", "0.750"):
        assert share in page.text


@pytest.fixture
def steered(project, frame):
    """A finished steering stage that has the table."""
    for stage in ("data", "training", "localization"):
        make(stage)
    folder = make("steering", files=("one.txt", "tables/try_it.csv"))
    frame.to_csv(folder / tryout.TABLE, index=False)
    manifest = stages.load_manifest(folder)
    manifest["outputs"][tryout.TABLE] = tryout.digest(folder / tryout.TABLE)
    stages.write_json(folder / "manifest.json", manifest)
    return folder


PLACE = Place("steering", "tiny", "inference", "gpt2-2x32", 0)


def test_writes_the_fragment_and_the_data(steered, tmp_path, frame):
    tryout.write([PLACE, Place("data", "tiny", "inference", "gpt2-2x32", 0)], tmp_path)
    copied = tmp_path / "try/try_it-inference.csv"
    assert copied.read_bytes() == (steered / tryout.TABLE).read_bytes()
    assert (tmp_path / tryout.FRAGMENT).read_text() == tryout.fragment({"inference": pd.read_csv(copied)})


def test_refuses_a_changed_table(steered, tmp_path):
    (steered / tryout.TABLE).write_text("input\n1\n")
    with pytest.raises(InputError, match=r"try_it\.csv was changed"):
        tryout.write([PLACE], tmp_path)


def test_older_runs_have_nothing_to_try(project, tmp_path):
    for stage in ("data", "training", "localization", "steering"):
        make(stage)
    tryout.write([PLACE], tmp_path)
    assert "made before there was anything to try" in (tmp_path / tryout.FRAGMENT).read_text()

"""The page *Try it*: its data are the table's, and no prompt can leave them."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from bs4 import BeautifulSoup

from book.build import tryit

HOSTILE = '</script><script>alert(1)</script><img src=x onerror="alert(2)">'
DOSES = (-1.0, -0.5, 0.0, 0.5, 1.0)


@pytest.fixture
def frame() -> pd.DataFrame:
    rows = [
        {
            "input": i,
            "dose": dose,
            "behavior": "memorization",
            "p_memorization": 0.5 + dose / 4,
            "p_generalization": 0.3 - dose / 4,
            "p_other": 0.2,
            "prompt": f"{HOSTILE} {i}",
            "answer_memorization": "teal",
            "answer_generalization": "<b>red</b>",
        }
        for i in (3, 7)
        for dose in reversed(DOSES)
    ]
    return pd.DataFrame(rows)


class Tags(HTMLParser):
    """The tags of a page, with what scripts hold."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.scripts, self.text, self._in_script = [], [], "", False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        self._in_script = tag == "script"

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts.append(data)
        else:
            self.text += data


def test_data_are_the_tables_and_prompts_stay_text(frame: pd.DataFrame) -> None:
    html = tryit.fragment({"inference": frame, "addition": frame.assign(prompt="1+2=")})
    page = Tags(html)
    assert "img" not in page.tags
    assert "b" not in page.tags
    assert page.tags.count("script") == 2
    assert HOSTILE in page.text  # in the plain table, as words
    data = json.loads(page.scripts[0])
    assert list(data) == ["inference", "addition"]
    assert [entry["prompt"] for entry in data["inference"]] == [f"{HOSTILE} 3", f"{HOSTILE} 7"]
    for entry in data["inference"]:
        assert entry["doses"] == list(DOSES)
        assert entry["p"]["memorization"] == pytest.approx([0.5 + dose / 4 for dose in DOSES])
        assert [sum(shares) for shares in zip(*entry["p"].values(), strict=True)] == pytest.approx([1.0] * 5)


def test_asks_for_nothing_from_elsewhere(frame: pd.DataFrame) -> None:
    html = tryit.fragment({"inference": frame}).replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|fetch\(|XMLHttp|innerHTML|import\(", html)
    assert set(re.findall(r'(?:src|href)="([^"]*)"', html)) == {"../_static/downloads/try/try_it-inference.csv"}


def test_plain_table_shows_both_ends_and_the_middle(frame: pd.DataFrame) -> None:
    html = tryit.plain_table("inference", frame)
    table = BeautifulSoup(html, "html.parser").table
    names = [cell.get_text() for cell in table.select("thead th")]
    rows = [[cell.get_text() for cell in row.select("td")] for row in table.select("tbody tr")]
    for name, text in {
        "Memorized": "teal",
        "p(memorized) at dose −1": "0.250",
        "p(memorized) at dose 0": "0.500",
        "p(inferred) at dose +1": "0.050",
    }.items():
        assert [row[names.index(name)] for row in rows] == [text, text], name


def test_writes_the_fragment_and_the_data(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame.to_csv(tmp_path / "made.csv", index=False)
    tryit.write({"inference": tmp_path / "made.csv"}, tmp_path / "downloads")
    copied = tmp_path / "downloads/try/try_it-inference.csv"
    assert copied.read_bytes() == (tmp_path / "made.csv").read_bytes()
    assert (tmp_path / "downloads" / tryit.FRAGMENT).read_text() == tryit.fragment({"inference": frame})


@pytest.mark.parametrize("answer", ["0011", "1080", "1e3", "nan", "None", "True"])
def test_answers_that_look_like_numbers_stay_as_they_are(frame: pd.DataFrame, tmp_path: Path, answer: str) -> None:
    frame.assign(answer_generalization=answer, prompt=answer).to_csv(tmp_path / "made.csv", index=False)
    tryit.write({"addition": tmp_path / "made.csv"}, tmp_path)
    html = (tmp_path / tryit.FRAGMENT).read_text()
    for entry in json.loads(Tags(html).scripts[0])["addition"]:
        assert (entry["answer_generalization"], entry["prompt"]) == (answer, answer)
    rows = BeautifulSoup(html, "html.parser").select("tbody tr")
    assert [[cell.get_text() for cell in row.select("td")][:3] for row in rows] == [[answer, "teal", answer]] * 2

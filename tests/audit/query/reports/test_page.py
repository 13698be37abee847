"""The page: well formed, self-contained, deaf to whatever a record holds, and its pictures tell what its tables tell."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from audit.query.lines import Damage
from audit.query.reports.build import INCIDENT, KEY_USAGE, QUARTERLY, Document, ReportKind
from audit.query.reports.charts import label_text
from audit.query.reports.page import html_page
from audit.query.reports.scope import Asked
from audit.report import Fault, LogReport, Report, Step, Verdict
from tests.audit.query.builder import KEY_A
from tests.audit.query.reports.planted import BREAKOUT, DAY, FIRST, KINDS, SCRIPT, Planted, make

VOID = {"meta", "wbr", "link", "br", "img", "input"}


class Page(HTMLParser):
    """Every element with its attributes and all text within; asserts that tags are balanced."""

    def __init__(self, html: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []  # the path of tags, and the text
        self.open: list[str] = []
        self.feed(html.decode())
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(("/".join(self.open), data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def document(planted: Planted, kind: ReportKind, **how: Any) -> Document:
    everything = Asked(caller="*", source="10.0.0.0/8") if kind is INCIDENT else Asked()
    return make(planted, kind, how.pop("asked", everything), **how)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """Not to be changed: `own` is."""
    planted = Planted(tmp_path_factory.mktemp("planted"))
    planted.plant()
    return planted


@pytest.fixture
def own(tmp_path: Path) -> Planted:
    own = Planted(tmp_path)
    own.plant()
    return own


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_it_is_well_formed_and_has_everything_in_it(planted: Planted, kind: ReportKind) -> None:
    html = html_page(document(planted, kind))
    page = Page(html)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for attributes in page.all("a"):
        assert (attributes["href"] or "")[0] == "#"
        assert (attributes["href"] or "")[1:] in ids
    for _, attributes in page.elements:
        for name in ("aria-labelledby", "aria-describedby"):
            assert set((attributes.get(name) or "").split()) <= set(ids)
    assert not {"script", "link", "img", "iframe", "object", "embed", "form", "base"} & {tag for tag, _ in page.elements}
    assert not [
        name for _, attributes in page.elements for name in attributes if name.startswith("on") or name in ("src", "style")
    ]
    for text in (b"http:", b"https:", b"//", b"url(", b"@import", b"javascript:", str(planted.data).encode()):
        assert text not in html.replace(b"<!doctype html>", b"")
    [policy] = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert (policy or "").startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    [root] = page.all("html")
    assert root["lang"] == "en"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_it_can_be_heard_and_printed(planted: Planted, kind: ReportKind) -> None:
    html = html_page(document(planted, kind))
    page = Page(html)
    headings = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(headings))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(attributes.get("scope") in ("col", "row") for attributes in page.all("th"))
    for attributes in page.all("svg"):
        assert attributes["role"] == "img"
        assert attributes["aria-labelledby"]
    style = html[html.index(b"<style>") : html.index(b"</style>")].decode()
    assert "prefers-color-scheme: dark" in style
    for rule in ("@media print", "display: table-header-group", "break-before: page", "break-inside: avoid"):
        assert rule in style
    assert style.count("{") == style.count("}")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_table_is_there_with_its_query(planted: Planted, kind: ReportKind) -> None:
    made = document(planted, kind)
    page = Page(html_page(made))
    codes = [text for path, text in page.texts if path.endswith("pre/code")]
    assert codes == [table.statement for table in made.tables]
    captions = "".join(text for path, text in page.texts if "caption" in path)
    for table in made.tables:
        if table.rows:
            assert f"{table.question.title}: {table.extent}. " in captions
    parameters = {text for path, text in page.texts if path.endswith("dl/dt")}
    assert {f"${name}" for table in made.tables for name in table.parameters} <= parameters
    bodies = len([tag for tag, _ in page.elements if tag == "tr"]) - len(page.all("table"))
    assert bodies == sum(len(table.rows) for table in made.tables) + len(made.coverage)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_pictures_tell_what_tables_tell(planted: Planted, kind: ReportKind) -> None:
    made = document(planted, kind)
    page = Page(html_page(made))
    drawn = [text for path, text in page.texts if path.endswith("rect/title")]
    expected = []
    for table in made.tables:
        if chart := table.question.chart:
            for measure in chart.measures:
                expected += [f"{label_text(row[chart.label])}: {row[measure]}" for row in table.rows]
    assert drawn == expected
    assert drawn


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_what_a_record_holds_stays_text(own: Planted, kind: ReportKind) -> None:
    tame = Page(html_page(document(own, kind, asked=Asked(access_keys=("AKIAALICE",)) if kind is INCIDENT else Asked())))
    own.plant_hostile()
    hostile = Asked(access_keys=(f"AKIA{SCRIPT.upper()}", "AKIAALICE")) if kind is INCIDENT else Asked()
    html = html_page(document(own, kind, asked=hostile))
    page = Page(html)
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in tame.elements} | {"ul", "li", "code", "span"}
    assert {name for _, attributes in page.elements for name in attributes} <= {
        name for _, attributes in tame.elements for name in attributes
    }
    assert b"<script" not in html.lower()
    assert b"<img" not in html
    assert "\x1b" not in html.decode()
    assert "\u202e" not in html.decode()
    text = "".join(text for _, text in page.texts)
    assert SCRIPT in text
    assert "onerror=alert(1)" in text
    assert "\\u202e\\x1b[31m" in text


def test_key_usage_shows_hostile_names_in_charts_and_policies(own: Planted) -> None:
    own.plant_hostile()
    page = Page(html_page(document(own, KEY_USAGE)))
    titles = [text for path, text in page.texts if path.endswith("rect/title")]
    assert any(BREAKOUT[:20] in title for title in titles)
    assert any(path.endswith("td/code") and text == f"+{SCRIPT}" for path, text in page.texts)


def test_signatures_and_columns_to_be_signed(planted: Planted) -> None:
    quarterly = Page(html_page(document(planted, QUARTERLY)))
    assert "Signatures" in [text for path, text in quarterly.texts if path.endswith("h2")]
    signed = [attributes for attributes in quarterly.all("td") if attributes.get("class") == "sign"]
    assert len(signed) == 3 * 7 + 22
    assert "know that its logs are not verified" in "".join(text for _, text in quarterly.texts)
    assert "the others are not reviewed here" not in "".join(text for _, text in quarterly.texts)
    cut = Page(html_page(document(planted, QUARTERLY, max_rows=2)))
    assert "the others are not reviewed here" in "".join(text for _, text in cut.texts)
    usage = Page(html_page(document(planted, KEY_USAGE)))
    assert "Signatures" not in [text for path, text in usage.texts if path.endswith("h2")]


def report(verdict: Verdict) -> Report:
    faults = (Fault(5, "w0", "0.jsonl", 3, f"the line was changed {SCRIPT}"),) if verdict is Verdict.FAILED else ()
    steps = (Step(1, "the log is there", Verdict.PASSED, ""), Step(5, "the tree", verdict, ""))
    return Report((LogReport("w0", steps, faults, 1_022, 1_000),))


@pytest.mark.parametrize(
    ("verdict", "text", "style"),
    [
        (Verdict.PASSED, "The logs were verified, and nothing was found that contradicts them.", "verdict sound"),
        (Verdict.FAILED, "VERIFICATION FAILED", "verdict unsound"),
    ],
)
def test_what_verification_found(planted: Planted, verdict: Verdict, text: str, style: str) -> None:
    page = Page(html_page(document(planted, QUARTERLY, verify_logs=lambda data, progress: report(verdict))))
    assert [attributes["class"] for attributes in page.all("p") if "verdict" in (attributes.get("class") or "")] == [style]
    words = [text for _, text in page.texts]
    assert sum(text in word for word in words) == 2
    assert [word for word in ("1,022", "1,000", "22") if word in words] == ["1,022", "1,000", "22"]
    assert any(SCRIPT in word for word in words) == (verdict is Verdict.FAILED)


def test_damage_is_named(own: Planted) -> None:
    own.log.raw(b"{\n" * 60)
    made = document(own, KEY_USAGE)
    assert made.damaged[0] == Damage("w0", own.log.segment.name, 23, "not JSON")
    page = Page(html_page(made))
    text = "".join(text for _, text in page.texts)
    assert "60 places in the logs could not be read: this report may lack records." in text
    assert "60 places in the logs could not be read; the first 50:" in text
    assert f"log w0, {own.log.segment.name}, line 23: not JSON" in text
    assert "line 73: not JSON" not in text


def test_of_one_damaged_line_it_speaks_in_the_singular(own: Planted) -> None:
    own.log.raw(b"{\n")
    text = "".join(text for _, text in Page(html_page(document(own, KEY_USAGE))).texts)
    assert "1 place in the logs could not be read:" in text


def test_a_cut_table_says_so(own: Planted) -> None:
    for number in range(3):
        own.add(FIRST + DAY, user=f"user{number}")
    page = Page(html_page(document(own, KEY_USAGE, max_rows=2)))
    captions = "".join(text for path, text in page.texts if "caption" in path)
    assert "Workloads: the first 2 of 10 rows (--rows 10 shows all)." in captions


def test_arns_are_whole(planted: Planted) -> None:
    html = html_page(document(planted, KEY_USAGE)).decode()
    lead, _, name = KEY_A.rpartition("/")
    assert f'<span class="lead">{lead}/</span><wbr>{name}</td>' in html

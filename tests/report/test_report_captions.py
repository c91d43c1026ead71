"""The report of a run that made captions: every caption is counted, examples show what happened, nothing is trusted."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from raysys.cli.results import show
from raysys.jobs.options import RunOptions
from raysys.jobs.report import JobConfig, run
from raysys.language.generality import REFERENCE
from raysys.report import print_study, study_report
from raysys.report.plots import Generality, generality_plot
from raysys.report.sections.replication import headline
from raysys.study.layout import Layout
from tests.support import report_data as fake
from tests.support.html_page import Page

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


def report_of(at: Layout) -> tuple[dict, Page]:
    """(summary.json, the page) of the run folder."""
    result = run(JobConfig(run=at.run), RunOptions())
    show(result)
    summary = result.steps["report"].values
    with open(at("summary.json"), encoding="utf-8") as file:
        assert json.load(file) == summary
    with open(at("report.html"), encoding="utf-8") as file:
        return summary, Page(file.read())


def naive(rows: list[dict], **wanted: str | None) -> dict:
    """The figures of summary.json for the rows whose columns are as wanted, counted row by row."""
    chosen = [r for r in rows if all(r.get(name) == value for name, value in wanted.items())]
    fates = {name: Counter(r["reason"] for r in chosen if r["outcome"] == name) for name in ("rejected", "error")}
    figures = {"in": len(chosen), "kept": sum(r["outcome"] == "kept" for r in chosen), **fates}
    return figures | {"tokens_mean": round(np.mean([r["completion_tokens"] for r in chosen]), 2)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(rows of both tables, summary, page, terminal output) of a run with captions."""
    at = fake.run_folder(tmp_path_factory.mktemp("run"), "scenes/plain/general")
    rows = fake.write_captions(at)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", out := io.StringIO())
        summary, page = report_of(at)
    return rows, summary, page, out.getvalue()


def test_summary_counts_every_caption(finished):
    rows, summary, _, _ = finished
    found = summary["data"]["captions"]
    assert list(found["captioners"]) == ["scenes", "nihongo"]
    for name, figures in found["captioners"].items():
        assert figures == naive(rows, captioner=name, level=None) | {
            "model": f"zoo:{name}",
            "revision": f"{name}-0123456789abcdef",
        }
    assert found["captioners"]["scenes"]["rejected"] == {"repetition": 1}
    assert found["captioners"]["nihongo"]["error"] == {"TimeoutError": 1}
    assert list(found["levels"]) == list(fake.LEVELS)
    for level, figures in found["levels"].items():
        assert figures.items() >= naive(rows, level=level).items()
        kept = [r for r in rows if r.get("level") == level and r["outcome"] == "kept"]
        assert figures["gs_before"] == pytest.approx(np.mean([r["source_gs"] for r in kept]), abs=1e-4)
        assert figures["gs_after"] == pytest.approx(np.mean([r["gs"] for r in kept]), abs=1e-4)
    general, five_words = found["levels"].values()
    assert (general["similarity"], five_words["similarity"]) == (0.5, None)
    assert (general["changed"], five_words["changed"]) == (pytest.approx(10 / 11, abs=1e-4), 1.0)
    assert five_words["rejected"] == {"too_many_words": 1}
    assert found["generality"] == fake.NLP
    assert summary["models"]["mitigated"]["recipe"]["captions"] == "scenes/plain/general"
    assert summary["data"]["tables"]["captions"]["in"] == 3 * fake.N_IMAGES
    assert summary["data"]["tables"]["generalized"]["in"] == 2 * (fake.N_IMAGES - 1)


def test_page_has_the_figures_in_the_order_of_the_data(finished):
    _, summary, page, _ = finished
    titles = [title for level, title in page.headings if level == "h2"]
    assert titles.index("What happened to the data") < titles.index("Captions") < titles.index("Training")
    general = summary["data"]["captions"]["levels"]["general"]
    means = f"{general['gs_before']:.2f} → {general['gs_after']:.2f}"
    assert page.row("general")[:4] == ["11", means, "0.500", "90.9 %"]
    assert all(f"{value:.3f}" in page.html for value in REFERENCE.values())
    assert page.row("five words")[2] == "–"
    assert page.row("scenes")[:5] == ["24", "23", "1", "0", "repetition 1"]
    assert page.row("nihongo")[:5] == ["12", "10", "1", "1", "wrong language 1error: TimeoutError 1"]
    assert page.row("five words", 1)[:5] == ["11", "10", "1", "0", "too many words 1"]
    assert page.row("scenes", 1)[:3] == ["15.5", "zoo:scenes", "scenes…abcdef"]
    assert f"Scored with {fake.NLP}" in page.html
    assert "The captioner and the rewriter are small models too" in page.html


def test_examples_are_chosen_by_hash_and_show_every_fate(finished, tmp_path):
    rows, _, page, _ = finished
    ids = {fake.row_id(i) for i in range(fake.N_IMAGES) if i != 3}  # image 3 has no caption to generalize
    chosen = sorted(ids, key=lambda name: hashlib.blake2b(name.encode(), digest_size=8).digest())[:6]
    alts = [image["alt"] for image in page.all("img") if image["alt"].startswith("Training image")]
    assert alts == [f"Training image {name}" for name in chosen]
    # In a report that is cut into other parts the same images are shown.
    at = Layout(str(tmp_path))
    fake.write_samples(at)
    fake.write_captions(at, chunk_rows=2)
    again = fake.captions_of(at, {})
    assert [example.name for example in again.examples] == chosen
    for example in again.examples:
        original, *synthetic = example.captions
        assert (original.captioner, original.text) == ("original", fake.caption(int(example.name[-3:])))
        kinds = [(c.captioner, c.prompt) for c in synthetic]
        assert kinds == [("scenes", "plain"), ("scenes", "picture"), ("nihongo", "describe")]
        assert [g.level for g in synthetic[0].generalized] == list(fake.LEVELS)
        assert not any(caption.generalized for caption in (original, *synthetic[1:]))
        for caption in synthetic:
            assert caption.text in page.html if caption.text else caption.problem == "error: TimeoutError"
        for made in synthetic[0].generalized:
            scores = f"GS {made.gs_before:.2f} → {made.gs_after:.2f}" if made.gs_after else made.problem
            assert scores in page.html
    problems = {r["reason"] for r in rows if r["row_id"] in chosen and r["outcome"] != "kept"}
    assert problems, "the chosen images must show a fate other than kept"
    assert page.html.count('<span class="problem">') == sum(
        r["row_id"] in chosen and r["outcome"] != "kept" for r in rows
    )


def test_japanese_is_marked_with_and_without_kana(finished):
    _, _, page, _ = finished
    texts = re.findall(r'<span lang="ja">([^<]*番[^<]*)</span>', page.html)
    assert {"赤色" in text for text in texts} == {True, False}
    assert not re.search(r"<span>[^<]*番", page.html)
    assert '--japanese: "Hiragino Sans"' in page.html
    assert ":lang(ja)" in page.html


def test_models_with_different_captions_are_explained(finished):
    _, _, page, out = finished
    assert "baseline: trained on the original captions; mitigated: trained on the captions scenes/" in page.html
    assert "each is prompted with its own" in page.html
    assert "is the combined effect of captions, prompts and training" in page.html
    # The heading of an entry is the first model's prompt; the other half names its own.
    assert len(page.all("p", "own-prompt")) == fake.N_IMAGES
    assert "a shape like p000-0" in page.html
    line = "generality score of captions: general 4.72 → 5.72 (11 captions), five words 4.74 → 6.74 (10 captions)"
    assert line in out.splitlines()
    assert re.search(r"^report: .*/report\.html$", out, re.MULTILINE)


def test_a_run_without_captions_has_no_such_section(tmp_path, capsys):
    at = fake.run_folder(tmp_path)
    summary, page = report_of(at)
    assert "captions" not in summary["data"]
    assert "captions" not in summary["data"]["tables"]
    assert "Captions" not in [title for _, title in page.headings]
    assert not page.all("p", "own-prompt")
    for words in ("generalized", "captioner", "prompted with"):
        assert words not in page.html
    assert "generality" not in capsys.readouterr().out


def test_generalized_original_captions_need_no_captioner(tmp_path):
    at = fake.run_folder(tmp_path, "original/five_words")
    rows = fake.write_captions(at, captioned=False)
    summary, page = report_of(at)
    assert summary["data"]["captions"]["captioners"] == {}
    assert summary["data"]["captions"]["levels"]["five_words"]["kept"] == fake.N_IMAGES - 1
    assert "The captions by" not in page.html
    assert "The original captions were generalized." in page.html
    assert len(rows) == 2 * fake.N_IMAGES
    assert "the captions original/five words" in page.html


def test_synthetic_captions_alone_have_no_scores(tmp_path):
    at = Layout(str(tmp_path))
    fake.write_samples(at)
    rows = [row for i in range(fake.N_IMAGES) for row in fake.synthetic(i) if row["captioner"] == "scenes"]
    fake.write_table(at.captions, fake.CAPTIONS, rows, "caption-scenes")
    report = fake.captions_of(at, {})
    assert (report.scores, report.levels, report.generality) == ((), [], None)
    data = fake.study(captions=report)
    html = study_report(data, tmp_path / "r.html").read_text(encoding="utf-8")
    assert len(Page(html).all("li", "example")) == 6
    assert "generality" not in html.lower()
    assert "captions" not in headline(data.evaluations["replication"]).explanation
    out = io.StringIO()
    print_study(data, file=out)
    assert "generality" not in out.getvalue()


def test_a_level_without_kept_captions(tmp_path):
    at = Layout(str(tmp_path))
    fake.write_samples(at)
    empty = {"outcome": "rejected", "reason": "empty", "gs": None, "source_gs": None}
    source = fake.synthetic(1)[0]
    fake.write_table(at.captions, fake.CAPTIONS, [source], "caption-scenes")
    made = [row | empty for row in fake.generalizations(source)]
    fake.write_table(at.generalized, fake.CAPTIONS, made, "generalize")
    report = fake.captions_of(at, {})
    assert [(s.level, s.n, s.gs_after) for s in report.scores] == [("general", 0, None), ("five_words", 0, None)]
    html = study_report(fake.study(captions=report), tmp_path / "r.html").read_text(encoding="utf-8")
    assert html.count('<span class="problem">rejected: empty</span>') == 2


def test_hostile_captions_are_escaped(tmp_path):
    at = fake.run_folder(tmp_path, "scenes/plain/general", full_command=HOSTILE)
    fake.write_captions(at, text=HOSTILE, model=HOSTILE, revision=HOSTILE, prompt_name="plain", language=HOSTILE)
    _, page = report_of(at)
    assert page.stack == []
    assert len(page.all("script")) == 1
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert HOSTILE in [span.get("lang") for span in page.all("span")]
    assert page.html.count("&lt;script&gt;") >= 6


def test_missing_picture_and_endless_caption(tmp_path):
    at = Layout(str(tmp_path))
    fake.write_samples(at)
    fake.write_captions(at, text="word " * 20_000)
    report = fake.captions_of(at, {})

    def gone(name: str) -> bytes:
        raise FileNotFoundError(name)

    without = study_report(fake.study(), tmp_path / "without.html").stat().st_size
    data = fake.study(captions=replace(report, training_image=gone))
    out = study_report(data, tmp_path / "r.html")
    assert out.stat().st_size < without + 200_000
    assert "cannot be read (FileNotFoundError)" in out.read_text(encoding="utf-8")


def test_generality_plot_marks_means_and_the_paper():
    before, after = np.zeros(40, dtype=int), np.zeros(40, dtype=int)
    before[17], after[25] = 8, 8
    rows = [Generality("general $x$ <b>", before, after, (4.4, 6.3), (5.202, 5.732))]
    svg = generality_plot(rows, "words")
    for words in ("before 4.40", "after 6.30", "general $x$ &lt;b&gt;"):
        assert svg.count(words) == 2  # once in each width
    assert not re.search(r"#010[0-9]\d\d\b|#0[1-8]0[1-8]0[1-8]", svg), "a placeholder color was not replaced"
    # The axis holds every caption and every mark, and no more: 4 to 7 here.
    ticks = re.findall(r">(\d+)</text>", svg)
    assert ticks == ["4", "5", "6", "7"] * 2
    assert svg == generality_plot(rows, "words")

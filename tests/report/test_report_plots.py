"""Plots and small text: what is drawn is what was measured, and the SVG fits into any page."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pillow_heif
import pytest
from PIL import Image
from rich.console import Console

from raysys.replication.result import Unreadable
from raysys.report import print_replication, print_study
from raysys.report.images import pictures
from raysys.report.plots import Distribution, distribution_plot, loss_curve, loss_plot, running_mean
from raysys.report.text import change, compare_figures, duration, interval, lang_of, number, shorten
from tests.support import report_data as fake
from tests.support.photos import photo_tiles


def test_loss_curve_keeps_the_last_of_a_repeated_step():
    records = [
        {"step": 1, "loss": 3.0},
        {"step": 2, "loss": 2.0},
        {"stage": "train", "done": 2},  # a progress record between them
        {"step": 2, "loss": 2.5},  # after a resume
        {"step": 3, "loss": float("nan")},
        {"step": 4, "loss": None},
    ]
    np.testing.assert_array_equal(loss_curve(records), [[1, 3.0], [2, 2.5]])
    assert loss_curve([]).shape == (0, 2)
    assert loss_plot({"a": [], "b": [{"step": 1}]}, "none") is None


def test_running_mean_equals_the_naive_one():
    values = np.random.default_rng(0).normal(size=100)
    half = 2
    naive = [values[max(i - half, 0) : i + half + 1].mean() for i in range(100)]
    np.testing.assert_allclose(running_mean(values), naive)
    np.testing.assert_array_equal(running_mean(values[:5]), values[:5])


def test_distribution_svg_is_clean_and_marks_r():
    values = np.random.default_rng(0).beta(5, 3, 100)
    rows = [
        Distribution("Baseline $x$ <b>", values, 0.842, (0.8, 0.9), 0),
        Distribution("Mitigated", values, 0.3, None, 1),
    ]
    svg = distribution_plot(rows, values, 'words with "quotes" & more')
    root = ET.fromstring(f"<div>{svg}</div>")
    assert [s.attrib["class"] for s in root] == ["plot wide", "plot narrow"]
    text = "".join(root.itertext())
    for words in ("R 0.842", "R 0.300", "Baseline $x$ <b>", "Mitigated"):
        assert text.count(words) == 2  # once in each width
    assert "http" not in svg
    assert "<style" not in svg
    assert not re.search(r"#010[0-9]\d\d\b|#0[1-8]0[1-8]0[1-8]", svg), "a placeholder color was not replaced"
    ids = [e.attrib["id"] for e in root.iter() if "id" in e.attrib]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"url\(#([^)]+)\)", svg)) | {
        e.attrib["href"].removeprefix("#") for e in root.iter() if "href" in e.attrib
    }
    assert used <= set(ids)
    assert svg == distribution_plot(rows, values, 'words with "quotes" & more')


@pytest.mark.parametrize("values", [np.array([0.5]), np.array([1.0000002, 1.0]), np.array([-0.3, 0.2]), np.zeros(400)])
def test_distribution_of_odd_values(values):
    assert "R 0.5" in distribution_plot([Distribution("x", values, 0.5, None, 0)], None, "odd")


def test_pictures_shrink_until_they_fit():
    noise = {str(i): fake.picture(i, noise=0.5, side=400) for i in range(6)}
    source = noise.__getitem__
    large = pictures([(source, name) for name in noise], 10_000_000)
    small = pictures([(source, name) for name in noise], 300_000)
    assert sum(len(p.src) for p in small) <= 300_000 < sum(len(p.src) for p in large)
    repeated = pictures([(source, "0")] * 10, 300_000)
    assert sum(len(p.src) for p in repeated) <= 300_000  # a picture shown ten times is ten times in the page
    assert (large[0].width, large[0].height) == (400, 400)  # of the source, not of the thumbnail


def test_heic_is_shown_and_a_damaged_avif_says_so():
    image, heic, avif = Image.fromarray(photo_tiles(96)[0]), io.BytesIO(), io.BytesIO()
    pillow_heif.from_pillow(image).save(heic)
    image.save(avif, "AVIF", quality=95)
    data = avif.getvalue()
    damaged = [data[:at] + bytes(16) + data[at + 16 :] for at in range(60, len(data), len(data) // 40)]
    named = {"heic": heic.getvalue(), **{str(i): found for i, found in enumerate(damaged)}}
    shown, *others = pictures([(named.__getitem__, name) for name in named], 10_000_000)
    assert (shown.width, shown.height) == (96, 96)
    assert any(picture.why == "cannot be decoded (RuntimeError)" for picture in others)


def test_numbers():
    assert number(-0.12345) == "−0.123"
    assert number(None) == number(float("nan")) == interval(None) == "–"
    assert interval((0.1, 0.25)) == "0.100 to 0.250"
    assert change(0.8, 0.6) == "−25 %"
    assert change(0.8, 0.7999) == "−0.01 %"
    assert change(0.5, 0.5) == "+0 %"
    assert change(0.0, 0.5) is None
    assert [duration(s) for s in (0.04, 9.94, 59.4, 59.6, 188, 7500)] == [
        "0.0 s", "9.9 s", "59 s", "1 min 00 s", "3 min 08 s", "2 h 05 min",
    ]  # fmt: skip
    assert (lang_of("赤い円"), lang_of("red circle"), lang_of(None)) == ("ja", None, None)
    assert shorten("abcdefghij", 5) == "ab…ij"


def test_shared_figures_are_shown_once():
    rows, shared = compare_figures([fake.result(0.5), fake.with_background(fake.result(0.6, n=40))])
    assert shared["Training images |X|"] == "512"
    assert rows["Generated images |G|"] == ["128", "40"]
    assert rows["R in the background distribution"][0] == "–"
    assert not set(rows) & set(shared)


def test_study_table_without_a_terminal_is_plain():
    out = io.StringIO()
    data = fake.study()
    print_study(data, out)
    text = out.getvalue()
    assert "\x1b" not in text
    table = text.split("\n\n")[0]
    assert max(map(len, table.splitlines())) <= 120
    cells = [line.split() for line in text.splitlines()]
    assert ["samples", "625", "586", "38", "1", "6.8", "s"] in [c[:7] for c in cells]
    order = [text.index(f"\n{table.name} ") for table in data.parts["data"].tables]
    assert order == sorted(order)
    assert "\n3 min 43 s in total: scenes 3.2 s, ingest 6.8 s" in text
    baseline, mitigated = data.evaluations["replication"].models
    assert ["baseline", f"{baseline.result.R:.3f}"] in [c[:2] for c in cells]
    assert ["mitigated", f"{mitigated.result.R:.3f}"] in [c[:2] for c in cells]
    assert f"{baseline.result.own_held_out.R:.3f}" in next(c for c in cells if c[:1] == ["baseline"])
    assert "\nR is lower for mitigated than for baseline.\n" in text


def test_study_table_names_what_has_no_result():
    out = io.StringIO()
    print_study(fake.study({"baseline": 0.4}, missing={"mitigated": "failed at “train mitigated”: Boom"}), file=out)
    assert "\nmitigated: failed at “train mitigated”: Boom\n" in out.getvalue()
    out = io.StringIO()
    print_study(fake.study(evaluations={}), file=out)
    assert "Replication" not in out.getvalue()


def test_replication_table_takes_names_literally():
    result = fake.result(0.6, n=12, unreadable=[Unreadable("training", "[/red].png", "rejected", "truncated", None)])
    for row in result.neighbors:
        row["generated"] = f"[bold red]{row['generated']}[/] :smile:"
    out = io.StringIO()
    print_replication(result, out)
    text = out.getvalue()
    worst = max(result.similarities)
    assert f"{worst:.3f}" in text
    assert text.count("[bold red]") == 5
    assert ":smile:" in text
    assert "training [/red].png: truncated" in text
    assert "only if |X| and |G| are equal" in text


def test_terminal_output_has_colors(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert Console(file=Terminal()).is_terminal
    out = Terminal()
    print_study(fake.study(), file=out)
    assert "\x1b[" in out.getvalue()

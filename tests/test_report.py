"""The HTML reports: complete, self-contained, safe with hostile data, and never more hopeful than the numbers."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import report_data as fake
import screenshot
from html_page import Page
from PIL import Image

from raysys.replication.features import Unreadable
from raysys.report import demo_report, pipeline_headline, replication_report
from raysys.report.gallery import MAX_ENTRIES, N_OPEN

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
LOADING = {"src", "srcset", "href", "poster", "data", "action", "background", "xlink:href", "formaction", "cite"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return fake.pipeline(captions=fake.captions(tmp_path_factory.mktemp("captions")))


@pytest.fixture(scope="module")
def demo(data, tmp_path_factory) -> Path:
    return demo_report(data, tmp_path_factory.mktemp("demo") / "new folder" / "report.html")


@pytest.fixture(scope="module")
def demo_page(demo) -> Page:
    return Page(demo.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> Path:
    result = fake.with_background(fake.result(0.7, n=60, held_out=fake.result(0.3, seed=9)))
    out = tmp_path_factory.mktemp("single") / "out.html"
    return replication_report(result, fake.generated_image(0.1), fake.training_image, out, command="raysys replication")


@pytest.mark.parametrize("which", ["demo", "single"])
def test_page_is_self_contained_and_well_formed(which, request):
    html = request.getfixturevalue(which).read_text(encoding="utf-8")
    page = Page(html)
    assert page.stack == []
    for tag, attrs in page.tags:
        for name in LOADING & set(attrs):
            assert attrs[name].startswith(("data:", "#")), f"<{tag} {name}={attrs[name][:60]}> loads something"
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    assert len(page.all("script")) == 1
    assert "default-src 'none'" in page.all("meta")[4]["content"]


@pytest.mark.parametrize("which", ["demo", "single"])
def test_page_is_accessible(which, request):
    page = Page(request.getfixturevalue(which).read_text(encoding="utf-8"))
    assert page.all("html") == [{"lang": "en"}]
    assert all(image.get("alt") for image in page.all("img"))
    assert all(plot.get("role") == "img" and plot.get("aria-label") for plot in page.all("svg"))
    levels = [int(tag[1]) for tag, _ in page.headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    labelled = {attrs["aria-labelledby"] for _, attrs in page.tags if "aria-labelledby" in attrs}
    assert labelled <= set(ids)


def test_demo_numbers_equal_the_data(data, demo_page):
    baseline, mitigated, held_out = data.baseline.result, data.mitigated.result, data.held_out
    cells = demo_page.row("R (95th percentile)")
    assert cells[:3] == [f"{r.R:.3f}" for r in (baseline, mitigated, held_out)]
    assert demo_page.row("Mean similarity")[:3] == [f"{r.mean:.3f}" for r in (baseline, mitigated, held_out)]
    assert demo_page.row("Share above 0.5")[0] == f"{100 * baseline.fraction_above['0.5']:.1f} %"
    assert demo_page.row("samples")[:4] == ["625", "586", "38", "1"]
    assert demo_page.row("training")[0] == "2 min 31 s"
    change = round(100 * (mitigated.R - baseline.R) / baseline.R)
    assert f"R {baseline.R:.3f} → {mitigated.R:.3f} (−{-change} %), held-out level {held_out.R:.3f}" in demo_page.html
    assert "licence not allowed <b>19</b>" in demo_page.html
    assert "CC-BY-NC-4.0 <b>19</b>" in demo_page.html
    assert "equal |X| and equal |G|" in demo_page.html
    assert data.full_command in demo_page.html
    assert all(sentence in demo_page.html for sentence in data.stand_ins)


def test_demo_gallery_shows_the_worst_of_either_model_side_by_side(data, demo_page):
    entries = demo_page.all("li", "entry")
    assert len(entries) == MAX_ENTRIES
    of = {m["generated"]: m["similarity"] for m in data.baseline.result.matches}
    mitigated = {m["generated"]: m["similarity"] for m in data.mitigated.result.matches}
    expected = sorted(of, key=lambda name: -max(of[name], mitigated[name]))[:MAX_ENTRIES]
    assert [e["data-name"] for e in entries] == expected
    assert [float(e["data-baseline"]) for e in entries] == [of[name] for name in expected]
    assert [float(e["data-mitigated"]) for e in entries] == [mitigated[name] for name in expected]
    # Two halves with two pictures each, the members of eight clusters, and the examples of captions.
    n_members = sum(min(c.size, 4) for c in sorted(data.duplicates, key=lambda c: -c.size)[:8])
    assert len(demo_page.all("img")) == 4 * MAX_ENTRIES + n_members + 6
    assert f"<summary>{MAX_ENTRIES - N_OPEN[2]} more</summary>" in demo_page.html
    assert {"lang": "ja"} in demo_page.all("span")


def test_gallery_pictures_are_the_images_asked_for(data, demo_page):
    first = demo_page.all("li", "entry")[0]["data-name"]
    sources = {image["alt"]: image["src"] for image in demo_page.all("img")}
    shown = sources[f"Generated image {first} (Baseline)"].removeprefix("data:image/png;base64,")
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown))))
    np.testing.assert_array_equal(decoded, np.asarray(Image.open(io.BytesIO(data.baseline.image(first)))))


@pytest.mark.parametrize(
    ("means", "effect", "words"),
    [
        ((0.8, 0.4, 0.3), True, "The mitigated model copies less than the baseline."),
        ((0.4, 0.8, 0.3), False, "No reduction: the mitigated model does not copy less than the baseline."),
    ],
)
def test_headline_follows_the_numbers(means, effect, words, tmp_path):
    data = fake.pipeline(*means)
    headline = pipeline_headline(data)
    assert headline.effect is effect
    html = demo_report(data, tmp_path / "r.html").read_text()
    assert words in html
    assert ("had no effect in this run" in html) is not effect
    assert ('<aside class="warning"' in html) is not effect


def test_equal_scores_are_no_effect():
    data = fake.pipeline()
    same = replace(data, mitigated=replace(data.mitigated, result=data.baseline.result))
    headline = pipeline_headline(same)
    assert not headline.effect
    assert "no effect" in headline.warnings[0]


def test_headline_doubts():
    data = fake.pipeline(0.8, 0.4, 0.3)
    low, _ = data.mitigated.result.R_ci

    def warnings(**changes):
        changed = replace(data.mitigated.result, **changes)
        return pipeline_headline(replace(data, mitigated=replace(data.mitigated, result=changed)))

    overlap = warnings(R_ci=(low, 1.0))
    assert overlap.verdict == "R is lower for the mitigated model, but the difference may be chance."
    assert "intervals of the two R overlap" in overlap.warnings[0]
    other = warnings(n_training=99)
    assert other.verdict == "R is lower for the mitigated model, but the two values are not comparable."
    assert "(512 and 99)" in other.warnings[0]
    none = warnings(R_ci=None, R_ci_reason="50 generated images; an interval needs at least 100")
    assert "50 generated images" in none.warnings[0]
    assert pipeline_headline(data).warnings == ()


def test_baseline_at_held_out_level_is_said():
    headline = pipeline_headline(fake.pipeline(0.5, 0.3, 0.8))
    assert any("nothing to mitigate" in warning for warning in headline.warnings)
    smaller = replace(fake.pipeline(0.8, 0.4, 0.3), held_out=fake.result(0.3, n_training=64))
    assert any("searched among 64 images, R among 512" in warning for warning in pipeline_headline(smaller).warnings)


def test_hostile_text_is_escaped_everywhere(tmp_path):
    result = fake.with_background(fake.result(0.6, n=12))
    for row in result.neighbours:
        row |= {"prompt": HOSTILE, "caption": HOSTILE + "b", "licence": HOSTILE, "url": "javascript:alert(1)"}
        row |= {"training": HOSTILE, "generated": row["generated"] + HOSTILE}
    unreadable = [Unreadable("generated", HOSTILE, "rejected", HOSTILE, HOSTILE)]
    out = replication_report(
        replace(result, unreadable=unreadable, descriptor=HOSTILE),
        lambda name: fake.picture(1),
        lambda name: fake.picture(2),
        tmp_path / "r.html",
        title=HOSTILE,
        command=HOSTILE,
        versions={HOSTILE: HOSTILE},
    )
    page = Page(out.read_text(encoding="utf-8"))
    assert len(page.all("script")) == 1
    assert all("onerror" not in attrs for _, attrs in page.tags)
    assert all(not name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert not any("javascript:" in (value or "") for _, attrs in page.tags for value in attrs.values())
    assert page.html.count("&lt;script&gt;") > 12
    demo = fake.pipeline(
        title=HOSTILE, command=HOSTILE, losses={HOSTILE: fake.loss_records(0, 0.1)}, stand_ins=[HOSTILE]
    )
    page = Page(demo_report(demo, tmp_path / "d.html").read_text(encoding="utf-8"))
    assert len(page.all("script")) == 1
    assert all(not name.startswith("on") for _, attrs in page.tags for name in attrs)


def test_undecodable_and_missing_images_become_placeholders(tmp_path):
    bomb = io.BytesIO()
    Image.new("1", (9000, 9000)).save(bomb, "PNG")

    def generated(name: str) -> bytes:
        if name == "p000-0":
            return b"not an image"
        if name == "p001-0":
            return bomb.getvalue()
        if name == "p002-0":
            return fake.picture(2)[:300]
        return fake.picture(3)

    def training(name: str) -> bytes:
        raise FileNotFoundError(name)

    out = replication_report(fake.result(0.6, n=4), generated, training, tmp_path / "r.html")
    page = Page(out.read_text(encoding="utf-8"))
    assert len(page.all("li", "entry")) == 4
    assert len(page.all("img")) == 1
    reasons = [attrs["aria-label"] for attrs in page.all("span", "missing")]
    assert len(reasons) == 7
    assert sum("cannot be read (FileNotFoundError)" in reason for reason in reasons) == 4
    assert sum("too large (9000 × 9000 pixels)" in reason for reason in reasons) == 1
    assert sum("cannot be decoded" in reason for reason in reasons) == 2


def test_a_bug_in_the_image_source_is_not_swallowed(tmp_path):
    def broken(name: str) -> bytes:
        raise AttributeError("a bug")

    with pytest.raises(AttributeError):
        replication_report(fake.result(0.6, n=4), broken, fake.training_image, tmp_path / "r.html")
    assert list(tmp_path.iterdir()) == []


def test_file_stays_below_5_mb_with_large_photographs(tmp_path):
    rng = np.random.default_rng(0)

    def photo(name: str) -> bytes:
        # Noise hardly compresses: worse than any photograph.
        side = int(rng.integers(700, 900))
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(buffer, "JPEG", quality=90)
        return buffer.getvalue()

    data = fake.pipeline(training_image=photo)
    data = replace(data, baseline=replace(data.baseline, image=photo), mitigated=replace(data.mitigated, image=photo))
    out = demo_report(data, tmp_path / "r.html")
    assert out.stat().st_size <= 5_000_000
    assert len(Page(out.read_text(encoding="utf-8")).all("img")) > 4 * MAX_ENTRIES


def test_least_possible_data(tmp_path):
    one = fake.result(0.5, n=1)
    data = fake.pipeline(losses={}, tables=[], duplicates=(), seconds={}, versions={})
    data = replace(
        data,
        held_out=None,
        baseline=replace(data.baseline, result=one),
        mitigated=replace(data.mitigated, result=fake.result(0.2, n=1)),
    )
    html = demo_report(data, tmp_path / "r.html").read_text(encoding="utf-8")
    assert len(Page(html).all("li", "entry")) == 1
    assert "No loss was recorded." in html
    assert "an interval needs at least 100" in html


def test_single_report_has_its_parts(single):
    page = Page(single.read_text(encoding="utf-8"))
    assert len(page.all("li", "entry")) == MAX_ENTRIES
    assert len(page.all("img")) == 2 * MAX_ENTRIES
    assert f"{MAX_ENTRIES - N_OPEN[1]} more" in page.html
    assert "60 generated images; an interval needs at least 100" in page.html
    assert "Published values of R were measured with SSCD" in page.html
    assert page.row("Generated images |G|")[:2] == ["60", "128"]


def test_report_replaces_an_older_one_whole(tmp_path):
    out = tmp_path / "r.html"
    out.write_text("old")
    replication_report(fake.result(0.6, n=4), fake.generated_image(0), fake.training_image, out)
    assert out.read_text(encoding="utf-8").endswith("</html>")
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


def test_colours_have_contrast():
    """WCAG AA: 4.5 for text on its surface, in both schemes."""
    css = Path(demo_report.__code__.co_filename).with_name("templates").joinpath("page.css").read_text()
    light, dark = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in css.split("@media")[:2])

    def luminance(colour: str) -> float:
        channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    text = ("ink", "muted", "bad", "series-0", "series-1", "series-2", "series-3")
    pairs = [(name, surface) for name in text for surface in ("paper", "card")]
    pairs += [("muted", "well"), ("ink", "well"), ("warn-ink", "warn-paper")]
    for scheme in (light, dark):
        for name, surface in pairs:
            a, b = sorted((luminance(scheme[name]), luminance(scheme[surface])))
            assert (b + 0.05) / (a + 0.05) >= 4.5, (name, surface)


@pytest.mark.skipif(screenshot.chromium() is None, reason=screenshot.HINT)
@pytest.mark.parametrize("which", ["demo", "single"])
def test_browser_shows_every_picture_without_sideways_scrolling(which, request, tmp_path):
    page = request.getfixturevalue(which)
    for width in (1280, 390):
        content_width, height, n_broken = screenshot.measure(page, width)
        assert content_width <= width
        assert height > 2000
        assert n_broken == 0
    shot = screenshot.screenshot(page, tmp_path / "phone.png", 390, dark=True, height=1200)
    pixels = np.asarray(Image.open(shot).convert("RGB"))
    assert pixels[:1200, 2].mean() < 60  # the page's own dark surface
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100

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
from PIL import Image

from raysys.replication.result import Unreadable
from raysys.report import replication_report, study_report
from raysys.report.gallery import MAX_ENTRIES, n_entries, n_open
from raysys.report.plots import N_SERIES
from raysys.report.sections.replication import headline, summary, table
from tests.support import report_data as fake
from tests.support import screenshot
from tests.support.html_page import Page

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
LOADING = {"src", "srcset", "href", "poster", "data", "action", "background", "xlink:href", "formaction", "cite"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return fake.study(captions=fake.captions(tmp_path_factory.mktemp("captions")))


@pytest.fixture(scope="module")
def demo(data, tmp_path_factory) -> Path:
    return study_report(data, tmp_path_factory.mktemp("demo") / "new folder" / "report.html")


@pytest.fixture(scope="module")
def demo_page(demo) -> Page:
    return Page(demo.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """Seven models, one of which failed."""
    means = {f"model-{i}": 0.8 - 0.08 * i for i in range(6)}
    data = fake.study(means, missing={"model-6": "failed at “train model-6”: start_from: /models/x does not exist"})
    data = replace(data, models=[*data.models, "model-6"])
    return study_report(data, tmp_path_factory.mktemp("many") / "report.html")


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> Path:
    result = fake.with_background(fake.result(0.7, n=60, held_out=fake.result(0.3, seed=9)))
    out = tmp_path_factory.mktemp("single") / "out.html"
    return replication_report(result, fake.generated_image(0.1), fake.training_image, out, command="raysys replication")


@pytest.mark.parametrize("which", ["demo", "many", "single"])
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


@pytest.mark.parametrize("which", ["demo", "many", "single"])
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
    labeled = {attrs["aria-labelledby"] for _, attrs in page.tags if "aria-labelledby" in attrs}
    assert labeled <= set(ids)


def results(data) -> list:
    """What the page shows: the models in order, then the reference."""
    found = data.evaluations["replication"]
    return [*(model.result for model in found.models), found.against_held_out]


def test_demo_numbers_equal_the_data(data, demo_page):
    baseline, mitigated, held_out = results(data)
    cells = demo_page.row("R (95th percentile)")
    assert cells[:3] == [f"{r.R:.3f}" for r in (baseline, mitigated, held_out)]
    assert demo_page.row("Mean similarity")[:3] == [f"{r.mean:.3f}" for r in (baseline, mitigated, held_out)]
    assert demo_page.row("Share above 0.5")[0] == f"{100 * baseline.fraction_above['0.5']:.1f} %"
    assert demo_page.row("samples")[:4] == ["625", "586", "38", "1"]
    assert demo_page.row("train-diffusion")[0] == "2 min 31 s"
    change = round(100 * (mitigated.R - baseline.R) / baseline.R)
    assert f"R {baseline.R:.3f} → {mitigated.R:.3f} (−{-change} %); baseline against held-out" in demo_page.html
    assert demo_page.row("mitigated")[:2] == [f"{mitigated.R:.3f}", f"−{-change} %"]
    assert "license not allowed <b>19</b>" in demo_page.html
    assert "CC-BY-NC-4.0 <b>19</b>" in demo_page.html
    assert "if |X| and |G| are equal" in demo_page.html
    assert data.full_command in demo_page.html
    assert all(sentence in demo_page.html for sentence in data.stand_ins)


def test_many_models_are_compared_with_the_first(many):
    page = Page(many.read_text(encoding="utf-8"))
    found = fake.replication({f"model-{i}": 0.8 - 0.08 * i for i in range(6)})
    first = found.reference.result.R
    for model in found.models[1:]:
        change = f"{100 * (model.result.R - first) / first:+.0f} %".replace("-", "−")
        assert page.row(model.name)[:2] == [f"{model.result.R:.3f}", change]
    assert page.row("model-6")[0] == "failed at “train model-6”: start_from: /models/x does not exist"
    assert "Models without a complete result" in [title for _, title in page.headings]
    assert len(page.all("li", "entry")) == n_entries(6) < MAX_ENTRIES
    assert len(page.all("div", "half")) == 6 * n_entries(6)
    assert [o["value"] for o in page.all("option")] == ["worst", *(f"m{i}" for i in range(6)), "name"]


def test_gallery_shows_the_worst_of_any_model_side_by_side(data, demo_page):
    entries = demo_page.all("li", "entry")
    assert len(entries) == MAX_ENTRIES
    baseline, mitigated, _ = results(data)
    of = {m["generated"]: m["similarity"] for m in baseline.matches}
    other = {m["generated"]: m["similarity"] for m in mitigated.matches}
    expected = sorted(of, key=lambda name: -max(of[name], other[name]))[:MAX_ENTRIES]
    assert [e["data-name"] for e in entries] == expected
    assert [float(e["data-m0"]) for e in entries] == [of[name] for name in expected]
    assert [float(e["data-m1"]) for e in entries] == [other[name] for name in expected]
    # Two halves with two pictures each, the members of eight clusters, and the examples of captions.
    clusters = sorted(data.parts["data"].duplicates, key=lambda c: -c.size)[:8]
    n_members = sum(min(c.size, 4) for c in clusters)
    assert len(demo_page.all("img")) == 4 * MAX_ENTRIES + n_members + 6
    assert f"<summary>{MAX_ENTRIES - n_open(2)} more</summary>" in demo_page.html
    assert {"lang": "ja"} in demo_page.all("span")


def test_gallery_pictures_are_the_images_asked_for(data, demo_page):
    first = demo_page.all("li", "entry")[0]["data-name"]
    sources = {image["alt"]: image["src"] for image in demo_page.all("img")}
    shown = sources[f"Generated image {first} (baseline)"].removeprefix("data:image/png;base64,")
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown))))
    np.testing.assert_array_equal(
        decoded, np.asarray(Image.open(io.BytesIO(data.evaluations["replication"].reference.image(first))))
    )


@pytest.mark.parametrize(
    ("means", "lower", "words"),
    [
        ([0.8, 0.4], True, "R is lower for m1 than for m0."),
        ([0.4, 0.8], False, "R is not lower for m1 than for m0."),
        ([0.8, 0.4, 0.3], True, "R is lower for m1 and m2 than for m0."),
        ([0.6, 0.3, 0.8], False, "R is lower for m1 than for m0, not for m2."),
        ([0.8], None, "R of m0 is 0.9"),
    ],
)
def test_headline_follows_the_numbers(means, lower, words, tmp_path):
    data = fake.study({f"m{i}": mean for i, mean in enumerate(means)}, held_out=0.2)
    said = headline(data.evaluations["replication"])
    assert said.lower is lower
    assert said.verdict.startswith(words)
    html = study_report(data, tmp_path / "r.html").read_text()
    assert words in html


def test_nothing_is_praised(data, demo, many, single):
    """A lower R may come from images that show nothing: the page says so, and never that a model is better."""
    for page in (demo, many, single):
        html = page.read_text(encoding="utf-8")
        for word in ("copies less", "better", "improve", "success", "removes", "mitigates"):
            assert word not in html, word
    assert "does not say how well a model draws" in demo.read_text(encoding="utf-8")


def test_equal_scores_are_not_lower():
    found = fake.replication()
    same = replace(found, models=[found.models[0], replace(found.models[1], result=found.models[0].result)])
    assert headline(same).lower is False


def test_headline_doubts():
    found = fake.replication({"baseline": 0.8, "mitigated": 0.4})
    other = found.models[1]
    low, _ = other.result.R_ci

    def said(**changes):
        changed = replace(other, result=replace(other.result, **changes))
        return headline(replace(found, models=[found.models[0], changed]))

    overlap = said(R_ci=(low, 1.0))
    assert overlap.verdict == "R is lower for mitigated than for baseline, but the difference may be due to chance."
    assert "intervals of R of baseline and of mitigated overlap" in overlap.warnings[0]
    different = said(n_training=99)
    assert different.verdict == "R is lower for mitigated than for baseline, but the values are not comparable."
    assert "(512 and 99)" in different.warnings[0]
    none = said(R_ci=None, R_ci_reason="50 generated images; an interval needs at least 100")
    assert none.verdict == overlap.verdict, "a difference without an interval is not a finding"
    assert "50 generated images" in none.warnings[0]
    assert headline(found).warnings == ()


def test_without_the_reference_nothing_is_compared():
    """Failed before: the next model silently became the reference."""
    found = fake.replication({"baseline": 0.8, "mitigated": 0.5, "third": 0.3})
    rest = replace(found, models=found.models[1:], missing_reference="baseline")
    said = headline(rest)
    assert said.verdict == "baseline has no result, so there is nothing to compare the other models with."
    assert said.lower is None
    assert all(row[3] == "" for row in table(rest)[1]), "no change is shown"
    assert "first_model_against_held_out" not in summary(rest)["references"]


def test_a_reference_at_held_out_level_is_said():
    said = headline(fake.replication({"baseline": 0.5, "mitigated": 0.3}, held_out=0.8))
    assert any("R shows no memorization" in warning for warning in said.warnings)
    near = headline(fake.replication({"baseline": 0.5, "mitigated": 0.3}, held_out=0.44))
    assert any("not clearly closer to its training images" in warning for warning in near.warnings)
    found = fake.replication(held_out=None)
    smaller = fake.against_held_out(found.reference.result, 0.3, n_training=64)
    said = headline(replace(found, models=[replace(found.reference, result=smaller), *found.models[1:]]))
    assert any("measured against 64 images, R against 512" in warning for warning in said.warnings)


def test_hostile_text_is_escaped_everywhere(tmp_path):
    result = fake.with_background(fake.result(0.6, n=12))
    for row in result.neighbors:
        row |= {"prompt": HOSTILE, "caption": HOSTILE + "b", "license": HOSTILE, "url": "javascript:alert(1)"}
        row |= {"training": HOSTILE, "generated": row["generated"] + HOSTILE}
    unreadable = [Unreadable("generated", HOSTILE, "rejected", HOSTILE, HOSTILE)]
    out = replication_report(
        replace(result, unreadable=unreadable, descriptor=HOSTILE),
        lambda name: fake.picture(1),
        lambda name: fake.picture(2),
        tmp_path / "r.html",
        command=HOSTILE,
        versions={HOSTILE: HOSTILE},
    )
    page = Page(out.read_text(encoding="utf-8"))
    assert len(page.all("script")) == 1
    assert all("onerror" not in attrs for _, attrs in page.tags)
    assert all(not name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert not any("javascript:" in (value or "") for _, attrs in page.tags for value in attrs.values())
    assert page.html.count("&lt;script&gt;") > 12
    demo = fake.study(
        {HOSTILE: 0.5, "b": 0.4}, title=HOSTILE, command=HOSTILE, stand_ins=[HOSTILE], missing={HOSTILE: HOSTILE}
    )
    page = Page(study_report(demo, tmp_path / "d.html").read_text(encoding="utf-8"))
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

    data = fake.study()
    found = data.evaluations["replication"]
    found = replace(found, training_image=photo, models=[replace(model, image=photo) for model in found.models])
    parts = data.parts | {"data": replace(data.parts["data"], training_image=photo)}
    data = replace(data, parts=parts, evaluations={"replication": found})
    out = study_report(data, tmp_path / "r.html")
    assert out.stat().st_size <= 5_000_000
    assert len(Page(out.read_text(encoding="utf-8")).all("img")) > 4 * MAX_ENTRIES


def test_least_possible_data(tmp_path):
    data = fake.study({"a": 0.5}, held_out=None, seconds={}, versions={})
    one = replace(data.evaluations["replication"].reference, result=fake.result(0.5, n=1))
    training = replace(data.parts["training"], losses={})
    found = replace(data.evaluations["replication"], models=[one])
    data = replace(data, evaluations={"replication": found}, parts={"training": training})
    html = study_report(data, tmp_path / "r.html").read_text(encoding="utf-8")
    assert len(Page(html).all("li", "entry")) == 1
    assert "No loss was recorded." in html
    assert "an interval needs at least 100" in html


def test_a_study_without_any_result(tmp_path):
    data = fake.study(evaluations={}, missing={"baseline": "failed at “train baseline”: Boom", "mitigated": "not done"})
    page = Page(study_report(data, tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "No model has a result yet." in page.html
    assert "failed at “train baseline”: Boom" in page.html


def test_single_report_has_its_parts(single):
    page = Page(single.read_text(encoding="utf-8"))
    assert len(page.all("li", "entry")) == MAX_ENTRIES
    assert len(page.all("img")) == 2 * MAX_ENTRIES
    assert f"{MAX_ENTRIES - n_open(1)} more" in page.html
    assert "60 generated images; an interval needs at least 100" in page.html
    assert "Published values of R were measured with SSCD" in page.html
    assert page.row("Generated images |G|")[:2] == ["60", "128"]


def test_report_replaces_an_older_one_whole(tmp_path):
    out = tmp_path / "r.html"
    out.write_text("old")
    replication_report(fake.result(0.6, n=4), fake.generated_image(0), fake.training_image, out)
    assert out.read_text(encoding="utf-8").endswith("</html>")
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


def test_colors_have_contrast():
    """WCAG AA: 4.5 for text on its surface, in both schemes."""
    css = Path(study_report.__code__.co_filename).with_name("templates").joinpath("page.css").read_text()
    light, dark = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in css.split("@media")[:2])

    def luminance(color: str) -> float:
        channels = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    text = ("ink", "muted", "bad", "scores", "series-references", *(f"series-{i}" for i in range(N_SERIES)))
    pairs = [(name, surface) for name in text for surface in ("paper", "card")]
    pairs += [("muted", "well"), ("ink", "well"), ("warn-ink", "warn-paper")]
    for scheme in (light, dark):
        for name, surface in pairs:
            a, b = sorted((luminance(scheme[name]), luminance(scheme[surface])))
            assert (b + 0.05) / (a + 0.05) >= 4.5, (name, surface)


@pytest.mark.skipif(screenshot.chromium() is None, reason=screenshot.HINT)
@pytest.mark.parametrize("which", ["demo", "many", "single"])
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

"""Plots as inline SVG with the page's colors and fonts, so that the same drawing works in light and dark mode.

Each plot is drawn twice, for wide and for narrow pages, because the text of a wide plot is too small on a phone. CSS
shows one of the two.
"""

from __future__ import annotations

import io
import math
import re
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from raysys.report.text import number

# Placeholder colors that matplotlib writes and `inline_svg` replaces by CSS variables.
INK, MUTED, RULE, BACKGROUND, SCORES = "#010101", "#020202", "#030303", "#040404", "#050505"
N_SERIES = 12
"""Number of colors for models; with more models, the colors repeat."""
REFERENCES = "references"
"""The series of the measurements with which models are compared."""
SERIES: dict[int | str, str] = {i: f"#0101{i + 16:02d}" for i in range(N_SERIES)} | {REFERENCES: "#010140"}
_CSS_OF = {INK: "--ink", MUTED: "--muted", RULE: "--rule", BACKGROUND: "--gray", SCORES: "--scores"}
_CSS_OF |= {color: f"--series-{name}" for name, color in SERIES.items()}
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))
"""Line styles, for readers who cannot distinguish the colors."""

FEW_IMAGES, WIDE_BIN, NARROW_BIN = 300, 0.05, 0.02
"""Below 300 images, bins of 0.02 would mostly show noise."""

WIDE_INCHES, NARROW_INCHES = 9.6, 3.7
"""At 72 points per inch: 691 and 266 points; the page shows them at about 1.6 and 1.3 pixels per point."""

_SVG = "{http://www.w3.org/2000/svg}"
_XLINK_HREF = "{http://www.w3.org/1999/xlink}href"


def series_of(number: int) -> int:
    """The series of model `number`: the key of its color in `SERIES` and in the page's style."""
    return number % N_SERIES


@dataclass(frozen=True)
class Distribution:
    """One row of the distribution plot. series: selects the color. R is marked, with its interval if given."""

    label: str
    similarities: np.ndarray
    R: float
    R_ci: tuple[float, float] | None
    series: int | str


def distribution_plot(rows: Sequence[Distribution], background: np.ndarray | None, summary: str) -> Markup:
    """Histograms of s(g), one below the other on one axis, with R marked and the background as an outline behind each.

    summary: a description in words, for screen readers.
    """
    values = [row.similarities for row in rows] + ([background] if background is not None else [])
    edges = _bin_edges(values)

    def draw(figure: Figure, narrow: bool) -> None:
        axes = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
        for ax, row in zip(axes, rows, strict=True):
            _draw_distribution(ax, row, background, edges, narrow)
        axes[-1].set_xlabel("similarity to the nearest image, s(g)")
        axes[-1].spines["bottom"].set_visible(True)
        for ax in axes[:-1]:
            ax.tick_params(bottom=False)

    each = 1.45 if len(rows) <= 4 else 1.05
    return _both_widths(draw, lambda narrow: (min(each, 1.2) if narrow else each) * len(rows) + 0.55, summary)


@dataclass(frozen=True)
class Generality:
    """One row of the generality plot: two histograms (counts in equal bins over 0 … 10), their means, the paper's."""

    label: str
    before: np.ndarray
    after: np.ndarray
    means: tuple[float, float]
    paper: tuple[float, float]


def generality_plot(rows: Sequence[Generality], summary: str) -> Markup:
    """GS of captions before (outline) and after (filled) generalization, with means; the paper's means as diamonds.

    One row per level on one axis. summary: a description in words, for screen readers.
    """
    low, high = _score_range(rows)

    def draw(figure: Figure, narrow: bool) -> None:
        axes = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
        for ax, row in zip(axes, rows, strict=True):
            _draw_generality(ax, row)
            ax.set_xlim(low, high)
            ax.set_xticks(np.arange(low, high + 1))
        axes[-1].set_xlabel("generality score GS, 0 to 10")
        for ax in axes[:-1]:
            ax.tick_params(bottom=False)

    return _both_widths(draw, lambda narrow: (1.1 if narrow else 1.2) * len(rows) + 0.55, summary)


def loss_plot(losses: Mapping[str, Sequence[Mapping[str, Any]]], summary: str) -> Markup | None:
    """Training loss against step: faint raw values and a running mean. None if no record has both step and loss."""
    curves = {name: loss_curve(records) for name, records in losses.items()}
    curves = {name: curve for name, curve in curves.items() if len(curve)}
    if not curves:
        return None

    def draw(figure: Figure, narrow: bool) -> None:
        ax = figure.subplots()
        for i, (name, curve) in enumerate(curves.items()):
            color = SERIES[series_of(i)]
            smooth = running_mean(curve[:, 1])
            if len(curve) >= 20:
                ax.plot(curve[:, 0], curve[:, 1], color=color, alpha=0.22, linewidth=0.8)
            ax.plot(curve[:, 0], smooth, color=color, linewidth=1.6, label=name, linestyle=DASHES[i % len(DASHES)])
        ax.set_xlabel("step")
        ax.set_ylabel("loss")
        ax.grid(axis="y", color=RULE, linewidth=0.6)
        ax.set_ylim(bottom=0)
        ax.margins(x=0.01)
        ax.spines["bottom"].set_visible(True)
        columns = 1 if len(curves) <= 3 else 2 if narrow else 4
        legend = ax.legend(frameon=False, loc="upper right", labelcolor=INK, ncols=columns)
        for text in legend.get_texts():
            text.set_parse_math(False)

    return _both_widths(draw, lambda narrow: (2.3 if narrow else 2.9) + 0.1 * len(curves), summary)


def loss_curve(records: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """The (step, loss) pairs of records with both as finite numbers, [n, 2], by step; the last one of a repeated step.

    A run that was killed and resumed logs the steps after its checkpoint twice.
    """
    by_step: dict[float, float] = {}
    for record in records:
        step, loss = record.get("step"), record.get("loss")
        if isinstance(step, (int, float)) and isinstance(loss, (int, float)) and math.isfinite(loss):
            by_step[step] = loss
    return np.array(sorted(by_step.items()), dtype=float).reshape(-1, 2)


def running_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the neighboring 5 % of the points on both sides together (at least 1): same length, no delay."""
    half = len(values) // 40
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def _bin_edges(values: Sequence[np.ndarray]) -> np.ndarray:
    n_images = min((len(v) for v in values if len(v)), default=0)
    width = WIDE_BIN if n_images < FEW_IMAGES else NARROW_BIN
    low = min((float(v.min()) for v in values if len(v)), default=0.0)
    start = min(0.0, math.floor(low / width) * width)
    return np.linspace(start, 1.0, round((1.0 - start) / width) + 1)


def _draw_distribution(
    ax: Axes, row: Distribution, background: np.ndarray | None, edges: np.ndarray, narrow: bool
) -> None:
    color = SERIES[row.series]
    # Clipped because cosines of equal images round to a hair above 1.
    heights, _ = np.histogram(np.clip(row.similarities, edges[0], edges[-1]), edges)
    shares = heights / max(heights.sum(), 1)
    ax.stairs(shares, edges, fill=True, color=color, alpha=0.35)
    ax.stairs(shares, edges, color=color, linewidth=1.0)
    top = float(shares.max(initial=0))
    if background is not None and len(background):
        outline = np.histogram(np.clip(background, edges[0], edges[-1]), edges)[0] / len(background)
        ax.stairs(outline, edges, color=BACKGROUND, linewidth=1.0, linestyle=(0, (2, 1.5)))
        top = max(top, float(outline.max()))
    if row.R_ci is not None:
        ax.axvspan(*row.R_ci, color=color, alpha=0.16, linewidth=0)
    ax.axvline(row.R, color=color, linewidth=1.8)
    # The label stands on the side of R where there is room.
    left = row.R / edges[-1] > 0.75
    ax.annotate(
        f"R {number(row.R)}",
        (row.R, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(-5 if left else 5, -2),
        textcoords="offset points",
        ha="right" if left else "left",
        va="top",
        color=INK,
        weight="bold",
    )
    ax.text(0.0, 1.04, row.label, transform=ax.transAxes, color=color, weight="bold", va="bottom", parse_math=False)
    ax.set_xlim(edges[0], edges[-1])
    ax.set_ylim(0, (top or 1.0) * 1.25)  # room for the label of R above the bars
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.spines["bottom"].set_visible(True)
    ax.set_xticks(np.arange(0, 1.01, 0.25 if narrow else 0.1))


def _score_range(rows: Sequence[Generality]) -> tuple[int, int]:
    """Whole numbers between which every caption and every mark lies."""
    values = [value for row in rows for value in (*row.means, *row.paper)]
    for row in rows:
        edges = np.linspace(0, 10, len(row.before) + 1)
        filled = np.flatnonzero(row.before + row.after)
        values += [*edges[filled], *edges[filled + 1]]
    return math.floor(min(values)), math.ceil(max(values))


def _draw_generality(ax: Axes, row: Generality) -> None:
    color = SCORES
    edges = np.linspace(0, 10, len(row.before) + 1)
    before, after = (counts / max(counts.sum(), 1) for counts in (row.before, row.after))
    ax.stairs(after, edges, fill=True, color=color, alpha=0.35)
    ax.stairs(after, edges, color=color, linewidth=1.0)
    ax.stairs(before, edges, color=BACKGROUND, linewidth=1.0, linestyle=(0, (2, 1.5)))
    rises = row.means[1] >= row.means[0]
    for mean, words, dark, left in (
        (row.means[0], "before", BACKGROUND, rises),
        (row.means[1], "after", color, not rises),
    ):
        ax.axvline(mean, color=dark, linewidth=1.8)
        # The labels stand away from each other: two close means would write one over the other.
        ax.annotate(
            f"{words} {number(mean, 2)}",
            (mean, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(-5 if left else 5, -2),
            textcoords="offset points",
            ha="right" if left else "left",
            va="top",
            color=INK,
            weight="bold",
        )
    for value, face in zip(row.paper, ("none", INK), strict=True):
        below = ax.get_xaxis_transform()
        marks = {"marker": "D", "markersize": 4, "markerfacecolor": face, "markeredgecolor": INK}
        ax.plot([value], [0.0], transform=below, clip_on=False, linestyle="none", zorder=5, **marks)
    ax.text(0.0, 1.04, row.label, transform=ax.transAxes, color=color, weight="bold", va="bottom", parse_math=False)
    ax.set_ylim(0, float(max(before.max(), after.max())) * 1.35)
    ax.set_yticks([])
    ax.spines["bottom"].set_visible(True)


def _both_widths(draw: Callable[[Figure, bool], None], height: Callable[[bool], float], summary: str) -> Markup:
    style = {
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 8.5,
        "text.color": INK,
        "axes.edgecolor": RULE,
        "axes.labelcolor": MUTED,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.spines.bottom": False,
        "ytick.left": False,
        "xtick.major.size": 3,
    }
    parts = []
    for narrow in (False, True):
        with matplotlib.rc_context(style):
            size = (NARROW_INCHES if narrow else WIDE_INCHES, height(narrow))
            figure = Figure(figsize=size, layout="constrained", facecolor="none")
            figure.get_layout_engine().set(w_pad=0, h_pad=0.04)
            draw(figure, narrow)
            parts.append(inline_svg(figure, summary, "narrow" if narrow else "wide"))
    return Markup("").join(parts)


def inline_svg(figure: Figure, summary: str, css_class: str) -> Markup:
    """A figure as an `<svg>` for HTML: no metadata or namespaces, own ids, colors as CSS variables, text as text."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": css_class}):
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    root = ET.fromstring(buffer.getvalue())
    for child in list(root):
        if not child.tag.startswith(_SVG):
            root.remove(child)
    for metadata in root.findall(f"{_SVG}metadata"):
        root.remove(metadata)
    for defs in root.findall(f"{_SVG}defs"):
        for style in defs.findall(f"{_SVG}style"):
            defs.remove(style)  # its selector `*` would restyle the whole page
    prefix = f"plot-{zlib.crc32(f'{css_class} {summary}'.encode()):08x}-"
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        _clean_attributes(element, prefix)
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.attrib |= {"class": f"plot {css_class}", "role": "img", "aria-label": summary}
    text = ET.tostring(root, encoding="unicode")
    for color, variable in _CSS_OF.items():
        text = text.replace(color, f"var({variable})")
    return Markup(text)


def _clean_attributes(element: ET.Element, prefix: str) -> None:
    """Make ids unique on the page (two plots of one page both have a `figure_1`) and links local."""
    if "id" in element.attrib:
        element.attrib["id"] = prefix + element.attrib["id"]
    if _XLINK_HREF in element.attrib:
        element.attrib["href"] = "#" + prefix + element.attrib.pop(_XLINK_HREF).removeprefix("#")
    for name, value in element.attrib.items():
        element.attrib[name] = re.sub(r"url\(#", f"url(#{prefix}", value)
    if element.tag == "text":
        # The page's font, sizes kept: matplotlib names fonts that a reader may not have.
        style = element.attrib.get("style", "")
        size = re.search(r"font(?:-size)?:[^;]*?([\d.]+)px", style)
        weight = "600" if re.search(r"\b(bold|700)\b", style) else "400"
        kept = [part for part in style.split(";") if part.strip().startswith(("fill", "text-anchor"))]
        kept += [f"font-size: {size.group(1) if size else 8.5}px", f"font-weight: {weight}"]
        element.attrib["style"] = "; ".join(part.strip() for part in kept)

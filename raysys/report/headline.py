"""What the measurements say, decided from the numbers: the first thing on the page, so never assumed."""

from __future__ import annotations

from dataclasses import dataclass

from raysys.replication import ReplicationResult
from raysys.report.data import PipelineReport
from raysys.report.text import change, interval, number, plain


@dataclass(frozen=True)
class Headline:
    """`verdict` is one sentence, `numbers` the same in figures; `warnings` say why not to believe it, or not yet."""

    effect: bool
    verdict: str
    numbers: str
    explanation: str
    warnings: tuple[str, ...]


def pipeline_headline(data: PipelineReport) -> Headline:
    """Does the mitigated model copy less than the baseline, and does the baseline copy at all?"""
    baseline, mitigated, held_out = data.baseline.result, data.mitigated.result, data.held_out
    effect = mitigated.R < baseline.R
    differences = _differences(baseline, mitigated)
    chance = _intervals_overlap(baseline, mitigated)
    warnings = []
    if not effect:
        verdict = "No reduction: the mitigated model does not copy less than the baseline."
        warnings.append("The mitigation had no effect in this run: its R is not below that of the baseline.")
    elif differences:
        verdict = "R is lower for the mitigated model, but the two values are not comparable."
    elif chance:
        verdict = "R is lower for the mitigated model, but the difference may be chance."
    else:
        verdict = "The mitigated model copies less than the baseline."
    warnings += differences
    if chance:
        warnings.append(
            "The 95 % intervals of the two R overlap: with this many images the difference may be chance. "
            "Generate more images to decide."
        )
    warnings += _missing_interval("the baseline's R", baseline) + _missing_interval(
        "the mitigated model's R", mitigated
    )
    if held_out is not None and baseline.R <= held_out.R:
        warnings.append(
            "The baseline is no closer to its training images than to images it never saw "
            f"(R {number(baseline.R)} against a held-out level of {number(held_out.R)}): "
            "it did not memorise, so there is nothing to mitigate."
        )
    if held_out is not None and held_out.n_training != baseline.n_training:
        warnings.append(
            f"The held-out level was searched among {held_out.n_training:,} images, R among {baseline.n_training:,}: "
            "R grows with that number, so the two are not quite comparable."
        )
    explanation = _explain_pipeline(baseline, mitigated, held_out) + _explain_captions(data.trained_level)
    return Headline(effect, verdict, _in_figures(baseline, mitigated, held_out), explanation, tuple(warnings))


def _in_figures(baseline: ReplicationResult, mitigated: ReplicationResult, held_out: ReplicationResult | None) -> str:
    percent = change(baseline.R, mitigated.R)
    text = f"R {number(baseline.R)} → {number(mitigated.R)}" + (f" ({percent})" if percent else "")
    return text if held_out is None else f"{text}, held-out level {number(held_out.R)}"


def replication_headline(result: ReplicationResult) -> Headline:
    """One measurement alone: what R says in words. There is no effect to judge."""
    verdict = f"The closest 5 % of the generated images reach a similarity of {number(result.R)} or more."
    explanation = (
        f"R = {number(result.R)} is the 95th percentile, over {result.n_generated:,} generated images, of the "
        f"similarity to the nearest of {result.n_training:,} training images. 1 means identical to the descriptor."
    )
    if result.held_out is not None:
        explanation += f" Real images that were not trained on reach {number(result.held_out.R)}: chance likeness."
    if result.R_background_percentile is not None:
        explanation += (
            f" Of the training images, {result.R_background_percentile:.1f} % have no other training image "
            "that is more similar to them than that."
        )
    numbers = f"R {number(result.R)}" + (f" ({interval(result.R_ci)})" if result.R_ci else "")
    return Headline(False, verdict, numbers, explanation, tuple(_missing_interval("R", result)))


def _explain_pipeline(
    baseline: ReplicationResult, mitigated: ReplicationResult, held_out: ReplicationResult | None
) -> str:
    text = (
        "R says how close the most copy-like 5 % of a model's images come to the image they resemble most in the "
        "training set; 1 would be a copy."
    )
    if held_out is None:
        return text
    text += f" Compared with images the baseline never saw, the measure gives {number(held_out.R)}: chance likeness."
    excess = baseline.R - held_out.R
    if excess > 0 and held_out.R <= mitigated.R < baseline.R:
        removed = (baseline.R - mitigated.R) / excess
        text += f" The mitigation removes {100 * removed:.0f} % of what the baseline has above that level."
    elif excess > 0 and mitigated.R < held_out.R:
        text += (
            " The mitigated model lies below that level. R does not say how well a model draws: blurred pictures "
            "resemble nothing. Look at them below."
        )
    return text


def _explain_captions(level: str | None) -> str:
    if level is None:
        return ""
    return (
        f" The baseline learnt the original captions, the mitigated model generalized ones (level {plain(level)}); "
        "each is prompted with the captions that it learnt."
    )


def _differences(baseline: ReplicationResult, mitigated: ReplicationResult) -> list[str]:
    """Reasons why the two R may not be compared at all."""
    return [
        f"The two R are not comparable: they come from different {name} ({a} and {b})."
        for what, name in (
            ("n_generated", "numbers of generated images"),
            ("n_training", "numbers of training images"),
            ("descriptor", "descriptors"),
            ("preset", "preprocessing presets"),
            ("weights_sha256", "descriptor weights"),
        )
        if (a := getattr(baseline, what)) != (b := getattr(mitigated, what))
    ]


def _intervals_overlap(baseline: ReplicationResult, mitigated: ReplicationResult) -> bool:
    if baseline.R_ci is None or mitigated.R_ci is None:
        return False
    return baseline.R_ci[0] <= mitigated.R_ci[1] and mitigated.R_ci[0] <= baseline.R_ci[1]


def _missing_interval(what: str, result: ReplicationResult) -> list[str]:
    if result.R_ci is not None:
        return []
    return [f"There is no confidence interval for {what}: {result.R_ci_reason or 'none was computed'}."]

"""What the replication scores say, decided from the numbers.

A lower R alone is "R is lower": R does not know whether a model draws well, so nothing here praises it.
"""

from __future__ import annotations

from collections.abc import Sequence

from raysys.replication import ReplicationResult
from raysys.report.headline import Headline
from raysys.report.sections.replication.collect import Measured, ReplicationData
from raysys.report.text import change, interval, join_words, number


def study_headline(data: ReplicationData) -> Headline:
    """How R of the other models stands to that of the first."""
    first, others = data.reference, data.models[1:]
    warnings = [w for other in others for w in _differences(first, other)]
    if overlapping := [other.name for other in others if _overlap(first.result, other.result)]:
        warnings.append(
            f"The 95 % intervals of R of {first.name} and of {join_words(overlapping)} overlap: with this many images "
            "the difference may be chance. Generate more images to decide."
        )
    for model in data.models:
        warnings += _missing_interval(model.name, model.result)
    warnings += _held_out_warnings(data)
    lower = all(other.result.R < first.result.R for other in others) if others else None
    return Headline(_verdict(data), _in_figures(data), _explanation(data), tuple(warnings), lower)


def _verdict(data: ReplicationData) -> str:
    first, others = data.reference, data.models[1:]
    if not others:
        return f"R of {first.name} is {number(first.result.R)}."
    lower = [other for other in others if other.result.R < first.result.R]
    if not lower:
        return f"R is not lower for {join_words([o.name for o in others])} than for {first.name}."
    verdict = f"R is lower for {join_words([other.name for other in lower])} than for {first.name}"
    if len(lower) < len(others):
        verdict += f", not for {join_words([o.name for o in others if o not in lower])}"
    if unclear := [other.name for other in lower if _differences(first, other)]:
        doubt = "the values are not comparable"
    elif unclear := [other.name for other in lower if _overlap(first.result, other.result)]:
        doubt = "the difference may be chance"
    else:
        return verdict + "."
    return f"{verdict}, but {doubt}{'' if len(others) == 1 else ' for ' + join_words(unclear)}."


def _in_figures(data: ReplicationData) -> str:
    first, others = data.reference, data.models[1:]
    text = f"R {number(first.result.R)}"
    if len(others) == 1:
        percent = change(first.result.R, others[0].result.R)
        text += f" → {number(others[0].result.R)}" + (f" ({percent})" if percent else "")
    elif others:
        text = ", ".join(f"{model.name} {number(model.result.R)}" for model in data.models)
        text = f"R: {text}"
    held_out = data.against_held_out
    return text if held_out is None else f"{text}; {first.name} against held-out images {number(held_out.R)}"


def _explanation(data: ReplicationData) -> str:
    first, held_out, real = data.reference, data.against_held_out, data.real_held_out
    text = (
        "R says how close the nearest 5 % of a model's images come to the training image that they resemble most; 1 is "
        "an identical image. It does not say how well a model draws or follows its prompts: an image that shows "
        "nothing resembles nothing. Look at the images below."
    )
    if held_out is not None:
        text += (
            f" Searched among images that no model has seen, the images of {first.name} reach {number(held_out.R)}: "
            "the level of chance."
        )
        excess = first.result.R - held_out.R
        for model in data.models[1:]:
            if excess > 0 and held_out.R <= model.result.R < first.result.R:
                share = (first.result.R - model.result.R) / excess
                text += f" R of {model.name} lies {100 * share:.0f} % of the way from {first.name} to that level."
            elif excess > 0 and model.result.R < held_out.R:
                text += f" R of {model.name} lies below that level."
    if real is not None:
        text += f" Real held-out images reach {number(real.R)} among the training images."
    return text + _about_captions(data)


def _about_captions(data: ReplicationData) -> str:
    if len({model.captions for model in data.models}) < 2:
        return ""
    return " The models learned different captions, and each is prompted with the captions that it learned."


def _held_out_warnings(data: ReplicationData) -> list[str]:
    first, held_out = data.reference, data.against_held_out
    if held_out is None:
        return []
    warnings = []
    if first.result.R <= held_out.R:
        warnings.append(
            f"The images of {first.name} are no closer to its training images than to images it has never seen "
            f"(R {number(first.result.R)} and {number(held_out.R)}): it did not memorize, so there is nothing to lower."
        )
    if held_out.n_training != first.result.n_training:
        warnings.append(
            f"The held-out level was searched among {held_out.n_training:,} images, R among "
            f"{first.result.n_training:,}: R grows with that number, so the two are not quite comparable."
        )
    return warnings


def replication_headline(result: ReplicationResult) -> Headline:
    """One measurement alone: what R says in words. There is nothing to compare it with."""
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
    return Headline(verdict, numbers, explanation, tuple(_missing_interval("the generated images", result)))


def limits(data: ReplicationData) -> Sequence[str]:
    """What R does not show."""
    sentences = []
    if len({model.captions for model in data.models}) > 1:
        sentences.append(
            "Models that learned other captions are also prompted with other captions: a difference of R between them "
            "is that of captions, prompts and training together."
        )
    sentences.append(
        "R says how near the generated images come to the training images under one descriptor. A copy that the "
        "descriptor does not recognize is not counted, and a low R does not prove that nothing was memorized."
    )
    return sentences


def _differences(first: Measured, other: Measured) -> list[str]:
    """Reasons why two R may not be compared at all."""
    return [
        f"R of {first.name} and of {other.name} are not comparable: they come from different {name} ({a} and {b})."
        for what, name in (
            ("n_generated", "numbers of generated images"),
            ("n_training", "numbers of training images"),
            ("descriptor", "descriptors"),
            ("preset", "preprocessing presets"),
            ("weights_sha256", "descriptor weights"),
        )
        if (a := getattr(first.result, what)) != (b := getattr(other.result, what))
    ]


def _overlap(first: ReplicationResult, other: ReplicationResult) -> bool:
    if first.R_ci is None or other.R_ci is None:
        return False
    return first.R_ci[0] <= other.R_ci[1] and other.R_ci[0] <= first.R_ci[1]


def _missing_interval(what: str, result: ReplicationResult) -> list[str]:
    if result.R_ci is not None:
        return []
    return [f"There is no confidence interval for R of {what}: {result.R_ci_reason or 'none was computed'}."]

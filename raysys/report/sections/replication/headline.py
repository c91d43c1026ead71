"""The headline of the replication scores, derived from the numbers.

A lower R is only reported as "R is lower", never as better, because R does not measure image quality.
"""

from __future__ import annotations

from collections.abc import Sequence

from raysys.replication import ReplicationResult
from raysys.report.headline import Headline
from raysys.report.sections.replication.collect import Measured, ReplicationData
from raysys.report.text import change, interval, join_words, number


def study_headline(data: ReplicationData) -> Headline:
    """How R of the other models compares with R of the first."""
    first, others = data.reference, data.others
    warnings = [w for other in others for w in _differences(first, other)]
    if overlapping := [other.name for other in others if _overlap(first.result, other.result)]:
        warnings.append(
            f"The 95 % intervals of R of {first.name} and of {join_words(overlapping)} overlap: with this many images "
            "the difference may be due to chance. Generate more images to decide."
        )
    for model in data.models:
        warnings += _missing_interval(model.name, model.result)
    warnings += _held_out_warnings(data)
    lower = all(other.result.R < first.result.R for other in others) if others else None
    return Headline(_verdict(data), _in_figures(data), _explanation(data), tuple(warnings), lower)


def _verdict(data: ReplicationData) -> str:
    first, others = data.reference, data.others
    if data.missing_reference is not None:
        return f"{data.missing_reference} has no result, so there is nothing to compare the other models with."
    if not others:
        return f"R of {first.name} is {number(first.result.R)}."
    lower = [other for other in others if other.result.R < first.result.R]
    if not lower:
        return f"R is not lower for {join_words([o.name for o in others])} than for {first.name}."
    verdict = f"R is lower for {join_words([other.name for other in lower])} than for {first.name}"
    if len(lower) < len(others):
        verdict += f", not for {join_words([o.name for o in others if o not in lower])}"
    different = [other.name for other in lower if _differences(first, other)]
    chance = [o.name for o in lower if o.name not in different and _may_be_chance(first.result, o.result)]
    doubts = (("the values are not comparable", different), ("the difference may be due to chance", chance))
    said = [text + ("" if len(others) == 1 else f" for {join_words(names)}") for text, names in doubts if names]
    return f"{verdict}, but {' and '.join(said)}." if said else f"{verdict}."


def _in_figures(data: ReplicationData) -> str:
    first, others = data.reference, data.others
    text = f"R {number(first.result.R)}"
    if len(others) == 1:
        percent = change(first.result.R, others[0].result.R)
        text += f" → {number(others[0].result.R)}" + (f" ({percent})" if percent else "")
    elif len(data.models) > 1:
        text = ", ".join(f"{model.name} {number(model.result.R)}" for model in data.models)
        text = f"R: {text}"
    held_out = data.against_held_out
    return text if held_out is None else f"{text}; {first.name} against held-out images {number(held_out.R)}"


def _explanation(data: ReplicationData) -> str:
    first, held_out, real = data.reference, data.against_held_out, data.real_held_out
    text = (
        "R is the similarity that the closest 5 % of a model's images reach with their nearest training image; 1 means "
        "identical. It does not say how well a model draws or follows its prompts: an image that shows nothing is not "
        "similar to anything. Look at the images below."
    )
    if held_out is not None:
        text += (
            f" Compared with held-out images that no model was trained on, the images of {first.name} reach "
            f"{number(held_out.R)}: the level of chance."
        )
        excess = first.result.R - held_out.R
        for model in data.others:
            if excess > 0 and held_out.R <= model.result.R < first.result.R:
                share = (first.result.R - model.result.R) / excess
                text += f" R of {model.name} is {100 * share:.0f} % of the way from {first.name} to that level."
            elif excess > 0 and model.result.R < held_out.R:
                text += f" R of {model.name} is below that level."
    if real is not None:
        text += f" Real held-out images, compared with the training images, reach {number(real.R)}."
    return text + _about_captions(data)


def _about_captions(data: ReplicationData) -> str:
    if len({model.captions for model in data.models}) < 2:
        return ""
    return " The models were trained on different captions, and each is prompted with its own."


def _held_out_warnings(data: ReplicationData) -> list[str]:
    first, held_out = data.reference, data.against_held_out
    if held_out is None:
        return []
    warnings = []
    if first.result.R <= held_out.R:
        warnings.append(
            f"The images of {first.name} are not closer to its training images than to images that it was not trained "
            f"on (R {number(first.result.R)} and {number(held_out.R)}): R shows no memorization that could be reduced."
        )
    elif _overlap(first.result, held_out):
        warnings.append(
            f"The 95 % intervals of R of {first.name} and of its held-out level overlap: its images are not clearly "
            "closer to its training images than to images that it was not trained on."
        )
    if held_out.n_training != first.result.n_training:
        warnings.append(
            f"The held-out level was measured against {held_out.n_training:,} images, R against "
            f"{first.result.n_training:,}: R grows with this number, so the two are not strictly comparable."
        )
    return warnings


def replication_headline(result: ReplicationResult) -> Headline:
    """The headline of a single measurement: what R means, without a comparison."""
    verdict = f"The closest 5 % of the generated images reach a similarity of {number(result.R)} or more."
    explanation = (
        f"R = {number(result.R)} is the 95th percentile, over {result.n_generated:,} generated images, of the "
        f"similarity to the nearest of {result.n_training:,} training images. 1 means that the descriptor cannot tell "
        "the two images apart."
    )
    if result.held_out is not None:
        explanation += (
            f" Real images that were not trained on reach {number(result.held_out.R)}: the level of chance similarity."
        )
    if result.R_background_percentile is not None:
        explanation += (
            f" For {result.R_background_percentile:.1f} % of the training images, the similarity to the nearest other "
            "training image is not higher than R."
        )
    numbers = _with_interval("R", result)
    warnings = _missing_interval("the generated images", result)
    if result.held_out is not None:
        numbers += "; " + _with_interval("real held-out images", result.held_out)
    else:
        warnings.append(
            "Without held-out images, R has no level to compare it with: R of smooth pictures is high by chance. Give "
            "real images that were not trained on (--held-out)."
        )
    return Headline(verdict, numbers, explanation, tuple(warnings))


def _with_interval(name: str, result: ReplicationResult) -> str:
    return f"{name} {number(result.R)}" + (f" ({interval(result.R_ci)})" if result.R_ci else "")


def limits(data: ReplicationData) -> Sequence[str]:
    """Sentences about what R does not show."""
    sentences = []
    if len({model.captions for model in data.models}) > 1:
        sentences.append(
            "Models trained on different captions are also prompted with different captions: a difference in R between "
            "them is the combined effect of captions, prompts and training."
        )
    sentences.append(
        "R says how close the generated images are to the training images according to one descriptor. A copy that "
        "the descriptor does not recognize is not counted, and a low R does not prove that nothing was memorized."
    )
    return sentences


def _differences(first: Measured, other: Measured) -> list[str]:
    """Reasons why two values of R are not comparable."""
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


def _may_be_chance(first: ReplicationResult, other: ReplicationResult) -> bool:
    """Without both intervals nothing speaks against chance."""
    return first.R_ci is None or other.R_ci is None or _overlap(first, other)


def _overlap(first: ReplicationResult, other: ReplicationResult) -> bool:
    if first.R_ci is None or other.R_ci is None:
        return False
    return first.R_ci[0] <= other.R_ci[1] and other.R_ci[0] <= first.R_ci[1]


def _missing_interval(what: str, result: ReplicationResult) -> list[str]:
    if result.R_ci is not None:
        return []
    return [f"R of {what} has no confidence interval: {result.R_ci_reason or 'none was computed'}."]

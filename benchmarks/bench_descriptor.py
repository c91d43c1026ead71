"""Claim: without weights, copies of photographs are found at ≥ 0.85 mean recall where 1 % of the queries match wrongly
among other photographs. Among neighboring tiles of their own photograph as well, the recall is lower, and reported.

    python benchmarks/bench_descriptor.py [--side 128] [--queries 150] [--share /usr/share] [--half evaluation]

Queries: 18 alterations of tiles of photographs. Database: the originals among all other tiles of the same half,
neighboring tiles of the same photograph, blurred ones, bricks and grass, flat colors and noise. A false match: the best
match of a query without its original. The score at which 1 % of the queries (all alterations together) have a false
match is the threshold, and recall is the share of queries whose own original scores above it. `n_distractors` is part
of the claim: more distractors have better false matches. Everything is measured twice: `all` with, `other_photos`
without the tiles of the query's own photograph, among which are wallpaper, windows and horizons that repeat.

Two stages are reported separately: the features alone, and the pixels of the most similar candidates, as `raysys dedup`
compares them. Reference on the same data: the perceptual hash pHash of the library ImageHash.

All constants were chosen on the other half of the photographs (`--half calibration`), see photo_copies.py.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import imagehash
import numpy as np
from common import record
from photo_copies import ALTERATIONS, Tiles, photographs, tiles_of
from PIL import Image

from raysys.replication.stats import replication_score
from raysys.shards.duplicates import DuplicatesConfig, find_clusters
from raysys.similarity import make_descriptor
from raysys.similarity.verify import VERIFIED, Prepared, verification_score

MIN_RECALL = 0.85
FALSE_MATCHES = 0.01
N_ORIGINALS, N_UNSEEN = 400, 200

Scores = dict[str, np.ndarray]
"""Alteration → [queries, tiles]."""


def altered(tiles: Tiles, others: Tiles, chosen: np.ndarray, rng: np.random.Generator) -> dict[str, list[Image.Image]]:
    """Every alteration of the chosen tiles; half composites are completed from photographs of the other half."""
    partners = [pixels for pixels, photo in zip(others.pixels, others.photo, strict=True) if photo >= 0]
    return {
        name: [
            alter(Image.fromarray(tiles.pixels[i]), rng, Image.fromarray(partners[int(rng.integers(len(partners)))]))
            for i in chosen
        ]
        for name, alter in ALTERATIONS.items()
    }


def at_false_matches(scores: Scores, chosen: np.ndarray, photo: np.ndarray) -> dict[str, object]:
    """{all, other_photos}: threshold and recall where 1 % of the queries have a false match."""
    own = {name: score[np.arange(len(chosen)), chosen] for name, score in scores.items()}
    found = {}
    for among, false in (("all", best_others(scores, chosen)), ("other_photos", best_others(scores, chosen, photo))):
        threshold = float(np.quantile(false, 1 - FALSE_MATCHES, method="higher"))
        hits = {name: score > threshold for name, score in own.items()}
        found[among] = {"threshold": round(threshold, 4), **recalls(hits)}
    return found


def best_others(scores: Scores, chosen: np.ndarray, photo: np.ndarray | None = None) -> np.ndarray:
    """The best score of each query without its original, all alterations together.

    photo: of each tile; if given, the tiles of the query's photograph do not count either.
    """
    left_out = np.arange(len(next(iter(scores.values()))[0])) == chosen[:, None]
    if photo is not None:
        left_out |= photo[chosen][:, None] == photo
    return np.concatenate([np.where(left_out, -np.inf, score).max(1) for score in scores.values()])


def recalls(found: dict[str, np.ndarray]) -> dict[str, object]:
    per = {name: round(float(hits.mean()), 3) for name, hits in found.items()}
    return {"recall": round(float(np.mean(list(per.values()))), 3), "recall_of": per}


def hashes(images: list) -> np.ndarray:
    """[N, bits] of ±1: the inner product falls with the Hamming distance."""
    pictures = [i if isinstance(i, Image.Image) else Image.fromarray(i) for i in images]
    return np.stack([imagehash.phash(picture).hash.ravel() for picture in pictures]) * 2.0 - 1.0


def verified_scores(
    tiles: Tiles, queries: dict[str, list[Image.Image]], similar: Scores, config: DuplicatesConfig
) -> tuple[Scores, float]:
    """(verification scores, 0 for pairs that are no candidates; milliseconds per pair)."""
    prepared = [Prepared(pixels) for pixels in tiles.pixels]
    scores, n_pairs, began = {}, 0, time.process_time()
    for name, images in queries.items():
        scores[name] = np.zeros_like(similar[name])
        for q, image in enumerate(images):
            query = Prepared(image)
            for i in np.argsort(-similar[name][q])[: config.candidates].tolist():
                if similar[name][q, i] >= config.threshold:
                    scores[name][q, i] = verification_score(prepared[i], query, float(similar[name][q, i]))
                    n_pairs += 1
    return scores, (time.process_time() - began) / n_pairs * 1e3


def false_merges(tiles: Tiles, config: DuplicatesConfig, seed: int) -> dict[str, int]:
    """Dedup of originals without a copy among them: how many are rejected."""
    rng, descriptor = np.random.default_rng(seed), make_descriptor()
    real = np.flatnonzero(tiles.photo >= 0)
    some = [tiles.pixels[i] for i in np.sort(rng.choice(real, min(N_ORIGINALS, len(real)), replace=False))]
    rows = [
        {"row_id": str(i), "sample_id": str(i), "width": 1, "height": 1, "license": None, "url": None}
        for i in range(len(some))
    ]
    prepared = [Prepared(pixels) for pixels in some]

    def same(a: str, b: str, similarity: float) -> bool:
        return verification_score(prepared[int(a)], prepared[int(b)], similarity) >= VERIFIED

    found = find_clusters(rows, descriptor(some), config, descriptor.views, same)
    return {"originals": len(some), "merged": sum(row["outcome"] != "kept" for row in found)}


def unseen_level(tiles: Tiles, others: Tiles, seed: int) -> dict[str, float]:
    """R of tiles of photographs that the training set does not have."""
    rng, descriptor = np.random.default_rng(seed), make_descriptor()
    real = np.flatnonzero(tiles.photo >= 0)
    queries = [tiles.pixels[i] for i in rng.choice(real, min(N_UNSEEN, len(real)), replace=False)]
    database = descriptor([p for p, photo in zip(others.pixels, others.photo, strict=True) if photo >= 0])
    nearest = np.einsum("qvd,nd->qvn", descriptor.views(descriptor(queries)), database).max((1, 2))
    return {"R": round(replication_score(nearest), 3), "n_generated": len(queries), "n_training": len(database)}


def measure(halves: tuple[Tiles, Tiles], n_queries: int, seed: int = 0) -> dict[str, object]:
    """All results for the first half; the second serves as the other pictures."""
    tiles, others = halves
    rng, descriptor = np.random.default_rng(seed), make_descriptor()
    config = DuplicatesConfig().of_descriptor(descriptor)
    real = np.flatnonzero(tiles.photo >= 0)
    chosen = np.sort(rng.choice(real, min(n_queries, len(real)), replace=False))
    queries = altered(tiles, others, chosen, rng)
    database = descriptor(tiles.pixels)
    similar = {
        name: np.einsum("qvd,nd->qvn", descriptor.views(descriptor(images)), database).max(1)
        for name, images in queries.items()
    }
    verified, ms_per_pair = verified_scores(tiles, queries, similar, config)
    own = {name: score[np.arange(len(chosen)), chosen] >= VERIFIED for name, score in verified.items()}
    found = {
        "features": at_false_matches(similar, chosen, tiles.photo),
        "features_and_pixels": at_false_matches(verified, chosen, tiles.photo),
        "dedup": {
            **recalls(own),
            "false_matches": round(float((best_others(verified, chosen) >= VERIFIED).mean()), 4),
            "false_matches_other_photos": round(
                float((best_others(verified, chosen, tiles.photo) >= VERIFIED).mean()), 4
            ),
            **false_merges(tiles, config, seed),
        },
        "unseen": unseen_level(tiles, others, seed),
        "ms_per_verified_pair": round(ms_per_pair, 2),
        "n_distractors": len(tiles.pixels) - 1,
        "n_photographs": len(np.unique(tiles.photo[real])),
        "n_queries": len(chosen) * len(queries),
    }
    bits = hashes(tiles.pixels)
    alike = {name: hashes(images) @ bits.T for name, images in queries.items()}
    found["phash"] = at_false_matches(alike, chosen, tiles.photo)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--queries", type=int, default=150)
    parser.add_argument("--share", type=Path, default=Path("/usr/share"))
    parser.add_argument("--half", choices=("evaluation", "calibration"), default="evaluation")
    args = parser.parse_args()
    calibration, evaluation = (
        tiles_of(half, args.side, np.random.default_rng(seed)) for seed, half in enumerate(photographs(args.share))
    )
    halves = (evaluation, calibration) if args.half == "evaluation" else (calibration, evaluation)
    results = measure(halves, args.queries)
    results |= {"side_px": args.side, "half": args.half, "false_matches": FALSE_MATCHES, "min_recall": MIN_RECALL}
    passed = results["features_and_pixels"]["other_photos"]["recall"] >= MIN_RECALL
    if args.half == "evaluation":
        record("descriptor", {"passed": passed, **results})
    else:
        print(json.dumps(results, indent=1, ensure_ascii=False))
    raise SystemExit(0 if passed else 1)


if __name__ == "__main__":
    main()

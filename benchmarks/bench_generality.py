"""Claim: scoring adds ≤ 10 % to its spaCy pipeline, and the noun table is ≥ 50 × as fast as walking WordNet.

    python benchmarks/bench_generality.py [--captions 1000] [--turns 60]

Cost: CPU seconds of `score` over the captions, over those of `nlp.pipe` alone over the same batches (inside the same
memory zones), minus 1. The two run in turns in one process, and their fastest turns are compared: other load on the
machine only ever adds, and by more than what is measured; the median of the turns stands beside. Captions per second
are of `score` as a whole, on one core, the median. Both pipelines are measured where spaCy's model is installed.

Walk: for every noun of every caption, the direct hyponyms and the minimum depth of its first synset. Table: one
`NounTable.get`. References, both without a cache, the index of lemmas in memory:
    files    reads the synset and all its hypernyms from data.noun each time (the file is in the page cache)
    memory   the same walk over synsets that were parsed beforehand
The gate is on `memory`, the faster one. Answers are compared; they must all be equal.

Memory: how much a fresh process grows at its peak while it scores 100,000 captions of words that never repeat.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import random
import statistics
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from common import record
from wordnet_walk import WORDNET, ParsedWordNet, WordNetFiles

from raysys.language.generality import mean_scores, score
from raysys.language.nlp import load_pipeline, pipeline_name
from raysys.language.tagger import analysis_of
from raysys.language.wordnet import load_nouns
from raysys.scenes import caption, sample_scene

BATCH = 1000
N_MEMORY = 100_000


def everyday_captions() -> list[str]:
    """Captions of photos by combination, about as long as those of COCO."""
    who = ("A man", "Two dogs", "A young woman in a red dress", "Several people", "An old bus", "The small black cat")
    what = (
        "standing",
        "sitting on a wooden bench",
        "looking at the camera",
        "waits",
        "covered in snow",
        "holding food",
    )
    where = ("in front of a building.", "next to a parked car", "on a beach with waves", "at night", "near trees")
    return [" ".join(words) for words in itertools.product(who, what, where)]


def test_captions(n: int) -> list[str]:
    """Half drawn scenes, half everyday captions, shuffled."""
    scenes = [caption(sample_scene(np.random.default_rng(i)), "en", i) for i in range(n // 2)]
    everyday = everyday_captions()
    texts = scenes + [everyday[i % len(everyday)] for i in range(n - len(scenes))]
    random.Random(0).shuffle(texts)
    return texts


def pipe_only(nlp: Any, texts: list[str]) -> None:
    for start in range(0, len(texts), BATCH):
        with nlp.memory_zone():
            for _ in nlp.pipe(texts[start : start + BATCH]):
                pass


def measure_cost(name: str, texts: list[str], turns: int) -> dict[str, Any]:
    nlp = load_pipeline(name)
    seconds: dict[str, list[float]] = {"pipe": [], "score": []}
    for turn in range(turns + 1):
        began = time.process_time()
        pipe_only(nlp, texts)
        between = time.process_time()
        for _ in score(texts, nlp, BATCH):
            pass
        ended = time.process_time()
        if turn:  # the first turn warms up
            seconds["pipe"].append(between - began)
            seconds["score"].append(ended - between)
    costs = [s / p - 1 for p, s in zip(seconds["pipe"], seconds["score"], strict=True)]
    return {
        "pipeline": pipeline_name(nlp),
        "cost_beyond_pipeline": round(min(seconds["score"]) / min(seconds["pipe"]) - 1, 4),
        "cost_beyond_pipeline_median_turn": round(statistics.median(costs), 4),
        "turns": turns,
        "captions_per_s_per_core": round(len(texts) / statistics.median(seconds["score"])),
        "pipe_only_captions_per_s_per_core": round(len(texts) / statistics.median(seconds["pipe"])),
    }


def measure_walk(texts: list[str], turns: int) -> dict[str, Any]:
    nlp, table = load_pipeline("rules"), load_nouns()
    nouns = [noun for doc in nlp.pipe(texts) for noun in analysis_of(doc).nouns]
    lookups = {"table": table.get, "memory": ParsedWordNet(WORDNET).noun, "files": WordNetFiles(WORDNET).noun}
    seconds: dict[str, list[float]] = {name: [] for name in lookups}
    answers = {}
    for turn in range(turns + 1):
        for name, look_up in lookups.items():
            began = time.process_time()
            answers[name] = [look_up(noun) for noun in nouns]
            if turn:
                seconds[name].append(time.process_time() - began)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "nouns": len(nouns),
        "microseconds_per_noun": {name: round(1e6 * s / len(nouns), 3) for name, s in median.items()},
        "table_to_memory_walk": round(median["memory"] / median["table"], 1),
        "table_to_files_walk": round(median["files"] / median["table"], 1),
        "same_answers": float(answers["table"] == answers["memory"] == answers["files"]),
    }


def new_words(n: int) -> Iterator[str]:
    rng = random.Random(0)
    for _ in range(n):
        yield " ".join("".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 10))) for _ in range(6))


def peak_kib() -> int:
    """The highest resident memory of this process so far; unlike getrusage's, it begins with the process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def peak_growth_mib(result: multiprocessing.Queue) -> None:
    """In a fresh process, after a warm-up of 5,000 captions: the growth of its peak over 100,000 more."""
    nlp = load_pipeline("rules")
    mean_scores(score(new_words(5000), nlp, BATCH))
    before = peak_kib()
    n = mean_scores(score(new_words(N_MEMORY), nlp, BATCH)).n
    result.put((n, round((peak_kib() - before) / 1024, 1)))


def measure_memory() -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    result = context.Queue()
    process = context.Process(target=peak_growth_mib, args=(result,))
    process.start()
    n, growth = result.get()
    process.join()
    return {"captions": n, "peak_growth_mib": growth}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=60)
    args = parser.parse_args()
    if not WORDNET.is_dir():
        sys.exit(f"{WORDNET} is missing: apt-get install wordnet-base")
    texts = test_captions(args.captions)
    model = find_spec("en_core_web_sm") is not None
    results = {
        "captions": len(texts),
        "words_per_caption": round(statistics.mean(len(t.split()) for t in texts), 1),
        "rules": measure_cost("rules", texts, args.turns),
        "en_core_web_sm": measure_cost("en_core_web_sm", texts, args.turns) if model else "not installed",
        "walk": measure_walk(texts, max(args.turns // 6, 3)),
        "memory": measure_memory(),
    }
    record("generality", results)


if __name__ == "__main__":
    main()

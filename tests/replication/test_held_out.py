"""Held-out images: those that are training images are left out, the others give two levels to read R against."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from raysys.replication import ReplicationConfig, score
from raysys.replication.saved import load_result, write_result
from raysys.rows import MATCHES
from raysys.scenes.drawing import draw
from raysys.scenes.planted import near_duplicate
from raysys.scenes.scene import sample_scene
from raysys.similarity import make_descriptor
from raysys.similarity.thresholds import EMBEDDED, NO_CLAIM
from tests.support.photos import png_bytes
from tests.support.tables import read_rows


@pytest.fixture(scope="module")
def scenes() -> list[np.ndarray]:
    rng = np.random.default_rng(21)
    return [draw(sample_scene(rng), 64) for _ in range(40)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, scenes) -> dict[str, Path]:
    """10 training images; 12 held-out ones, of which h00 has the bytes of t00 and h01 is a crop of t01."""
    root = tmp_path_factory.mktemp("sets")
    sets = {
        "training": {f"t{i:02}": scenes[i] for i in range(10)},
        "held_out": {"h00": scenes[0], "h01": near_duplicate(scenes[1], "cropped")},
        "generated": {f"g{i:02}": scenes[30 + i] for i in range(8)} | {"g08": near_duplicate(scenes[5], "brighter")},
    }
    sets["held_out"] |= {f"h{i:02}": scenes[10 + i] for i in range(2, 12)}
    for name, images in sets.items():
        (root / name).mkdir()
        for file, pixels in images.items():
            (root / name / f"{file}.png").write_bytes(png_bytes(pixels))
    return {name: root / name for name in sets}


def measured(folders, **settings):
    return score(
        folders["generated"],
        folders["training"],
        held_out=folders["held_out"],
        config=ReplicationConfig(**settings),
    )


def test_held_out_images_that_are_training_images_are_left_out_and_counted(folders):
    result = measured(folders)
    left_out = result.held_out_left_out
    assert (left_out.n_held_out, left_out.n, left_out.n_same_bytes) == (12, 2, 1)
    assert left_out.threshold == EMBEDDED.near_duplicate.similarity
    assert [(image["held_out"], image["training"]) for image in left_out.images] == [
        ("h00.png", "t00.png"),
        ("h01.png", "t01.png"),
    ]
    assert result.held_out.n_generated == result.own_held_out.n_training == 10
    assert not {"h00.png", "h01.png"} & set(result.held_out.generated_ids)
    assert (result.held_out.similarities < left_out.threshold).all()


def test_the_two_levels_equal_measurements_of_the_remaining_images(folders, tmp_path):
    rest = tmp_path / "rest"
    rest.mkdir()
    for i in range(2, 12):
        (rest / f"h{i:02}.png").write_bytes((folders["held_out"] / f"h{i:02}.png").read_bytes())
    result = measured(folders)
    real, own = score(rest, folders["training"]), score(folders["generated"], rest)
    np.testing.assert_array_equal(result.held_out.similarities, real.similarities)
    np.testing.assert_array_equal(result.own_held_out.similarities, own.similarities)
    assert (result.held_out.R, result.own_held_out.R) == (real.R, own.R)
    assert (real.n_generated, own.n_training) == (10, 10)


def test_the_threshold_can_be_set_and_equal_bytes_always_count(folders):
    strict = measured(folders, held_out_threshold=1.0).held_out_left_out
    assert [image["held_out"] for image in strict.images] == ["h00.png"]
    assert strict.threshold == 1.0

    class WithoutThreshold(type(make_descriptor())):
        thresholds = NO_CLAIM

    sets = folders["generated"], folders["training"]
    result = score(*sets, held_out=folders["held_out"], descriptor=WithoutThreshold())
    assert (result.held_out_left_out.threshold, result.held_out_left_out.n) == (None, 1)
    assert result.copies is None


def test_a_held_out_set_of_training_images_only_gives_no_level(folders, tmp_path):
    same = tmp_path / "same"
    same.mkdir()
    (same / "copy.png").write_bytes((folders["training"] / "t03.png").read_bytes())
    result = score(folders["generated"], folders["training"], held_out=same)
    assert (result.held_out, result.own_held_out, result.held_out_left_out.n) == (None, None, 1)


def test_a_measurement_says_what_a_copy_is_and_how_often_chance_reaches_it(folders):
    result = measured(folders)
    assert result.copies["threshold"] == EMBEDDED.copy.similarity
    assert result.copies["fraction"] == pytest.approx(1 / 9)
    assert result.copies["by_chance"] < 2e-4
    data = json.loads(json.dumps(result.to_dict()))
    assert data["copies"]["meaning"] == EMBEDDED.copy.meaning
    assert data["weights_sha256"] == make_descriptor().weights_sha256
    assert {"0.5", "0.75", "0.9"} <= set(data["fraction_above"])
    assert data["held_out_left_out"]["n"] == 2


def test_matches_name_the_images_on_both_sides_by_their_bytes(folders, tmp_path):
    def sample_id(path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest()

    result = measured(folders)
    for match in result.matches:
        assert match["generated_sample_id"] == sample_id(folders["generated"] / match["generated"])
        assert match["training_sample_id"] == sample_id(folders["training"] / match["training"])
    write_result(str(tmp_path / "out"), result)
    rows = read_rows(str(tmp_path / "out/matches"), MATCHES).to_pylist()
    assert {r["generated"]: r["training_sample_id"] for r in rows} == {
        m["generated"]: m["training_sample_id"] for m in result.matches
    }


def test_a_saved_measurement_comes_back_whole(folders, tmp_path):
    result = measured(folders)
    write_result(str(tmp_path / "out"), result)
    loaded = load_result(str(tmp_path / "out"))
    assert loaded.to_dict() == result.to_dict()
    assert loaded.summary() == result.summary()
    assert loaded.thresholds == EMBEDDED
    np.testing.assert_array_equal(loaded.own_held_out.similarities, result.own_held_out.similarities)

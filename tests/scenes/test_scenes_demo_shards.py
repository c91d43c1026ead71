"""Demo shards: reproducible bytes, countable contents, never mixed with another configuration."""

import hashlib
import json
import tarfile

import pytest

from raysys.config import load
from raysys.errors import InputError
from raysys.scenes import ScenesConfig, write_demo_shards

SMALL = ScenesConfig(
    image_size=32,
    n_train=20,
    n_held_out=4,
    n_fusion_classes=3,
    n_per_class=2,
    samples_per_shard=16,
    exact_copies=(3, 1),
    n_near=4,
    n_not_allowed=2,
    n_unknown=1,
    truncated_shard=True,
)


def digests(folder):
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.tar")}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    return folder, write_demo_shards(folder, SMALL)


def test_same_config_same_bytes_and_repeating_changes_nothing(written, tmp_path):
    folder, truth = written
    assert write_demo_shards(tmp_path, SMALL) == truth
    assert digests(tmp_path) == digests(folder)
    write_demo_shards(tmp_path, SMALL)
    assert digests(tmp_path) == digests(folder)
    write_demo_shards(tmp_path / "other", SMALL.model_copy(update={"seed": 1}))
    assert digests(tmp_path / "other")["train/00000.tar"] != digests(folder)["train/00000.tar"]


def test_counts_add_up(written):
    folder, truth = written
    train = truth["counts"]["train"]
    assert train["kept"] == 20 + 3 + 1 + 4 + 2  # scenes, exact copies, near copies, whole samples of the cut shard
    assert train["rejected"]["license_not_allowed"] == 2
    assert train["rejected"]["license_unknown"] == 1
    assert train["in"] == train["kept"] + sum(train["rejected"].values()) + 1
    assert train["error"] == {"truncated_shard": 1}
    assert truth["n_unique"] == 20 + 2
    assert truth["counts"]["held_out"]["in"] == 4
    assert truth["counts"]["fusion"]["kept"] == 6
    assert len(truth["items"]) == sum(c["in"] for c in truth["counts"].values())
    assert json.loads((folder / "truth.json").read_text()) == truth


def test_planted_exact_copies_have_the_same_picture_bytes_and_another_url(written):
    folder, truth = written
    pictures, urls = {}, {}
    for path in sorted((folder / "train").glob("*.tar"))[:-1]:
        with tarfile.open(path) as tar:
            for member in tar:
                assert member.mtime == 1_700_000_000
                key, extension = member.name.split(".", 1)
                data = tar.extractfile(member).read()
                if extension in ("jpg", "png", "webp"):
                    pictures[key] = data
                elif extension == "json" and not key.startswith("bad"):
                    urls[key] = json.loads(data)["url"]
    for group in truth["duplicate_groups"]:
        n_pictures = len({pictures[k] for k in group["keys"]})
        assert n_pictures == (1 if group["kind"] == "exact" else len(group["keys"])), group
        assert len({urls[k] for k in group["keys"]}) == len(group["keys"])
    assert [len(g["keys"]) for g in truth["duplicate_groups"]] == [4, 2, 2, 2, 2, 2]


def test_another_config_or_foreign_tars_are_refused(written, tmp_path):
    folder, _ = written
    with pytest.raises(InputError, match="another configuration"):
        write_demo_shards(folder, SMALL.model_copy(update={"n_train": 21}))
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "mine.tar").write_bytes(b"")
    with pytest.raises(InputError, match="did not write"):
        write_demo_shards(tmp_path, SMALL)


def test_impossible_config_is_refused_with_its_values():
    with pytest.raises(InputError, match="n_near = 8 need 13 different scenes, n_train = 3"):
        load(ScenesConfig, None, ["n_train=3"])

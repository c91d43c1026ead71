"""`raysys replication A B` as a user runs it: two folders of pictures in, figures, files and messages out."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raysys.cli import main
from raysys.replication import ReplicationConfig, score, terminal_progress

N_TRAINING, N_COPIES, N_NEW = 12, 3, 5


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """training/ with countable pictures; generated/ with smaller copies of the first three, and new ones."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name in ("training", "generated", "held out"):
        (root / name).mkdir()
    for i in range(N_TRAINING):
        picture = draw(rng)
        picture.save(root / "training" / f"t{i:02}.png")
        (root / "training" / f"t{i:02}.json").write_text(json.dumps({"caption": f"number {i}", "license": "cc0"}))
        if i < N_COPIES:
            picture.resize((80, 80)).save(root / "generated" / f"copy{i}.jpg")
    for i in range(N_NEW):
        draw(rng).save(root / "generated" / f"new{i}.png")
        draw(rng).save(root / "held out" / f"h{i}.png")
    (root / "generated" / "broken.png").write_bytes(b"no picture")
    return root


def draw(rng: np.random.Generator) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((96, 96))


def run_cli(*args: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["replication", *args])
    return caught.value.code


def test_two_folders_to_figures_and_files(folders: Path, run_folder: Path, capsys) -> None:
    sides = str(folders / "generated"), str(folders / "training")
    files = ["--report", "out/r.html", "--json", "out/r.json", "--csv", "out/r.csv"]
    assert run_cli(*sides, *files, "--top", "2", "--held-out", str(folders / "held out")) == 0
    data = json.loads((run_folder / "out/r.json").read_text())
    assert (data["n_generated"], data["n_training"]) == (N_COPIES + N_NEW, N_TRAINING)
    assert data["R_ci"] is None
    assert "at least 100" in data["R_ci_reason"]
    found = {m["generated"]: m["training"] for m in data["matches"][:N_COPIES]}
    assert found == {f"copy{i}.jpg": f"t{i:02}.png" for i in range(N_COPIES)}
    assert data["matches"][0]["license"].startswith("CC0")
    assert data["held_out"]["R"] < data["R"]
    assert [u["id"] for u in data["unreadable"]] == ["broken.png"]

    lines = list(csv.DictReader((run_folder / "out/r.csv").open()))
    assert len(lines) == 2 * data["n_generated"]
    assert {(line["generated"], line["rank"]) for line in lines} == {
        (m["generated"], rank) for m in data["matches"] for rank in ("0", "1")
    }
    html = (run_folder / "out/r.html").read_text()
    assert "number 0" in html
    assert "--top 2" in html
    out, err = capsys.readouterr()
    assert "copy0.jpg" in out
    assert "broken.png" in out
    assert err.count("wrote out/r.") == 3


def test_the_command_gives_what_the_function_gives(folders: Path, capsys) -> None:
    sides = str(folders / "generated"), str(folders / "training")
    assert run_cli(*sides, "--json", "-") == 0
    data = json.loads(capsys.readouterr().out)
    result = score(*sides, config=ReplicationConfig())
    assert (data["R"], data["matches"]) == (result.R, json.loads(json.dumps(result.matches)))


def test_the_held_out_level_stands_beside_r(folders: Path, capsys) -> None:
    sides = str(folders / "generated"), str(folders / "training")
    held_out = score(*sides, held_out=folders / "held out").held_out
    assert run_cli(*sides, "--held-out", str(folders / "held out")) == 0
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if line.startswith(("R 0", "R 1")))
    assert line.endswith(f"; real held-out images {held_out.R:.3f}")
    assert "high by chance" not in out
    assert run_cli(*sides) == 0
    out = capsys.readouterr().out
    assert "R of smooth pictures is high by chance. Give real images that were not trained on (--held-out)." in out


def test_progress_ends_well_when_batches_fit_exactly(folders: Path, capsys) -> None:
    with terminal_progress() as progress:
        score(
            folders / "held out",
            folders / "training",
            config=ReplicationConfig(batch_images=1),
            progress=progress,
        )
    err = capsys.readouterr().err
    assert err.count("describe training  12/12 images") == 1


def test_it_needs_no_ray(folders: Path) -> None:
    code = (
        "import sys\nfrom raysys.cli import main\n"
        "try: main(['replication', sys.argv[1], sys.argv[2]])\n"
        "finally: print('ray' in sys.modules)"
    )
    sides = str(folders / "generated"), str(folders / "training")
    out = subprocess.run([sys.executable, "-c", code, *sides], capture_output=True, text=True, check=True).stdout
    assert out.endswith("False\n")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["generated", "nowhere"], "training: nowhere does not exist"),
        (["generated", "generated"], "every image would match itself"),
        (["generated", "training", "--json", "training"], "training is a folder"),
        (["generated", "training", "--sha256", "12"], "descriptor.sha256 = '12'"),
        (["generated", "training", "--preset", "sscd288"], "'sscd288' is not one of embedded's"),
        (["generated", "training", "--descriptor", "sscd"], "descriptor sscd needs weights"),
        (["generated", "training", "--weights", "w.pt"], "set the descriptor that they belong to"),
        (["generated"], "Missing argument 'TRAINING'"),
    ],
)
def test_bad_input_is_one_message(folders: Path, monkeypatch, capsys, args: list[str], words: str) -> None:
    monkeypatch.chdir(folders)
    assert run_cli(*args) == 2
    err = capsys.readouterr().err
    assert words in err
    assert "Traceback" not in err

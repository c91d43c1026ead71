"""Look at a page with headless Chromium: `python -m tests.support.screenshot report.html out.png --width 390 [--dark]`.

The page is shown in a frame of the wanted width: Chromium refuses windows as narrow as a phone.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
HINT = "no Chromium found: `make browser` or `apt-get install chromium`"
TIMEOUT_S = 120
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",  # containers often have a small /dev/shm
    "--hide-scrollbars",
]
WRAPPER = """<!DOCTYPE html><meta name="color-scheme" content="light dark"><style>body{{margin:0}}
iframe{{border:0;display:block;width:{width}px;height:{height}px}}</style><iframe src="{url}"></iframe><p id="size"></p>
<script>onmessage = (e) => {{ document.getElementById("size").textContent = "size=" + e.data }}</script>
"""
MEASURE = """<script>addEventListener("load", () => setTimeout(() => parent.postMessage(
[document.documentElement.scrollWidth, document.documentElement.scrollHeight,
 [...document.images].filter((i) => !i.naturalWidth).length].join(","), "*"), 200))</script>"""


def chromium() -> str | None:
    """The path of an installed Chromium or Chrome."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def measure(page: Path, width: int) -> tuple[int, int, int]:
    """(content width, content height, broken images) of `page` laid out `width` pixels wide.

    A copy without the content policy runs the measuring script; the layout is the same.
    """
    with tempfile.TemporaryDirectory() as folder:
        html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
        copy = Path(folder) / "copy.html"
        copy.write_text(html + MEASURE, encoding="utf-8")
        dom = _run(folder, copy, width, 1000, "--virtual-time-budget=3000", "--dump-dom")
    found = re.search(r"size=(\d+),(\d+),(\d+)", dom)
    if found is None:
        raise RuntimeError(f"Chromium did not lay out {page}: {dom[-500:]}")
    return int(found[1]), int(found[2]), int(found[3])


def screenshot(page: Path, png: Path, width: int, *, dark: bool = False, height: int | None = None) -> Path:
    """The whole page (or its first `height` pixels) as a PNG, `width` pixels wide."""
    height = height or measure(page, width)[1]
    with tempfile.TemporaryDirectory() as folder:
        scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
        size = f"--window-size={max(width, 500)},{height}"
        _run(folder, page.resolve(), width, height, *scheme, size, f"--screenshot={png.resolve()}")
    return png


def _run(folder: str, page: Path, width: int, height: int, *flags: str) -> str:
    wrapper = Path(folder) / "wrapper.html"
    wrapper.write_text(WRAPPER.format(width=width, height=height, url=page.as_uri()), encoding="utf-8")
    binary = chromium()
    if binary is None:
        raise RuntimeError(HINT)
    command = [binary, *FLAGS, f"--user-data-dir={folder}/profile", *flags, wrapper.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("png", type=Path)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int)
    parser.add_argument("--dark", action="store_true")
    args = parser.parse_args()
    screenshot(args.page, args.png, args.width, dark=args.dark, height=args.height)


if __name__ == "__main__":
    main()

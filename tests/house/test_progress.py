"""Progress: what a user sees on a terminal, in a log, and what metrics.jsonl holds."""

import io
import json
import threading

import pytest

from raysys.outcomes import Counts
from raysys.progress import Progress, Waiting, format_clock, format_rate


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_log_line_shows_count_rate_eta_and_outcomes(clock):
    out = io.StringIO()
    progress = Progress("ingest", 4096, "rows", 5.0, stream=out, clock_s=clock)
    clock.now_s += 8
    counts = Counts()
    counts.add("rejected", "too_large", 3)
    counts.add("kept", n=1021)
    progress.update(1024, counts, worked_s=8.0)
    assert out.getvalue() == "ingest  1,024/4,096 rows in  25 %  128 rows/s  ETA 0:24  kept 1,021 rejected 3 error 0\n"


def test_log_is_not_flooded_and_ends_with_one_final_line(clock):
    out = io.StringIO()
    with Progress("ingest", 1000, "rows", 5.0, stream=out, clock_s=clock) as progress:
        for done in range(1, 1001):
            clock.now_s += 0.02
            progress.update(done)
    lines = out.getvalue().splitlines()
    assert len(lines) == 4  # 20 s at one line per 5 s; the last of them falls on the final line
    assert lines[-1] == "ingest  1,000/1,000 rows  100 %  50 rows/s  done in 0:20"
    progress.close()
    assert out.getvalue().splitlines() == lines


def test_exception_inside_says_stopped_and_propagates(clock):
    out = io.StringIO()

    def fail_after_three() -> None:
        with Progress("x", 10, stream=out, clock_s=clock) as progress:
            progress.update(3)
            raise KeyError

    with pytest.raises(KeyError):
        fail_after_three()
    assert "3/10 items  30 %" in out.getvalue()
    assert "stopped in" in out.getvalue()


def test_no_eta_before_there_is_something_to_measure(clock):
    progress = Progress("x", 1000, stream=io.StringIO(), clock_s=clock)
    assert "ETA -:--" in progress.line()
    clock.now_s += 0.01
    progress.update(64)  # 6,400 per second would promise 0:01 for a stage that takes minutes
    assert progress.rate is None
    assert progress.eta_s is None
    clock.now_s += 60
    progress.update(128)
    assert progress.eta_s == pytest.approx(872 / (64 / 60))


@pytest.mark.parametrize("worked_s", [None, 4.0])
def test_what_the_start_takes_is_not_in_the_first_eta(clock, worked_s):
    """30 s of start, then 10 rows every 4 s: the first ETA is that of the work, not 3 to 9 times as much."""
    progress = Progress("x", 100, stream=io.StringIO(), clock_s=clock)
    clock.now_s += 34
    progress.update(10, worked_s=worked_s)
    if worked_s is None:  # nobody knows when the work on the first rows began: it is measured from their end
        assert progress.eta_s is None
    else:
        assert progress.eta_s == pytest.approx(36)
    clock.now_s += 4
    progress.update(20, worked_s=worked_s)
    assert progress.eta_s == pytest.approx(32)


def test_chunks_of_parallel_workers_that_end_together_promise_no_miracle(clock):
    """Four workers, 10 rows in 8 s each: 5 rows/s, although three of the first chunks end within a second."""
    progress = Progress("x", 400, stream=io.StringIO(), clock_s=clock)
    clock.now_s += 30
    for done in (10, 20, 30, 40):
        progress.update(done, worked_s=8.0)
        clock.now_s += 0.3
    assert progress.rate == pytest.approx(40 / 9.2)


def test_counts_of_a_resumed_run_are_said_to_be_its_own(clock):
    progress = Progress("x", 100, start=50, stream=io.StringIO(), clock_s=clock)
    counts = Counts(kept=9)
    counts.add("error", "OSError")
    progress.update(60, counts)
    assert "60/100 items in  60 %" in progress.line()
    assert "this run: kept 9 rejected 0 error 1" in progress.line()


def test_rate_is_of_the_last_half_minute(clock):
    progress = Progress("x", 10_000, stream=io.StringIO(), clock_s=clock)
    for second in range(1, 201):
        clock.now_s += 1
        progress.update(second if second <= 100 else 100 + (second - 100) * 50)
    assert progress.rate == pytest.approx(50)
    assert progress.eta_s == pytest.approx((10_000 - 5_100) / 50)


def test_stalled_stage_loses_its_eta(clock):
    progress = Progress("x", 100, stream=io.StringIO(), clock_s=clock)
    clock.now_s += 10
    progress.update(50)
    for _ in range(40):
        clock.now_s += 1
        progress.update(50)
    assert progress.eta_s is None


def test_resumed_items_do_not_count_as_speed(clock):
    progress = Progress("x", 1000, start=900, stream=io.StringIO(), clock_s=clock)
    assert "90 %" in progress.line()
    clock.now_s += 10
    progress.update(950, worked_s=10.0)
    assert progress.rate == pytest.approx(5)
    assert progress.eta_s == pytest.approx(10)


def test_nearly_done_is_not_100_percent(clock):
    progress = Progress("x", 1000, stream=io.StringIO(), clock_s=clock)
    progress.update(999)
    assert "  99 %" in progress.line()


def test_unknown_or_zero_total(clock):
    progress = Progress("scan", None, "files", stream=io.StringIO(), clock_s=clock)
    clock.now_s += 10
    progress.update(70, worked_s=10.0)
    assert progress.line() == "scan  70 files  7 files/s"
    out = io.StringIO()
    Progress("empty", 0, "rows", stream=out, clock_s=clock).close()
    assert out.getvalue() == "empty  0/0 rows  done in 0:00\n"


def test_terminal_has_one_live_line_that_never_wraps(clock, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    out = Terminal()
    first = Progress("train baseline", 900, "steps", stream=out, clock_s=clock)
    second = Progress("train mitigated", 900, "steps", stream=out, clock_s=clock)
    for done in range(0, 900, 10):
        clock.now_s += 0.3
        first.update(done, loss=0.123456)
        second.update(done, loss=0.2)
    drawn = out.getvalue().split("\r\x1b[2K")
    assert "\n" not in out.getvalue()
    assert max(map(len, drawn)) <= 59
    assert drawn[-1].startswith("train baseline")  # the shared line keeps the order of appearance
    first.close()
    assert out.getvalue().count("\n") == 1
    assert out.getvalue().split("\r\x1b[2K")[-1].startswith("train mitigated")
    second.close()
    assert out.getvalue().count("\n") == 2
    assert out.getvalue().endswith("\r\x1b[2K")


def test_metrics_records_are_json_lines(clock, tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    with Progress("train", 100, "steps", 5.0, metrics=path, stream=io.StringIO(), clock_s=clock) as progress:
        for step in range(1, 101):
            clock.now_s += 0.2
            progress.update(step, step=step, loss=1 / step)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [r["done"] for r in records] == [25, 50, 75, 100, 100]
    assert records[1]["loss"] == pytest.approx(1 / 50)
    assert records[1]["rate"] == pytest.approx(5)
    assert [r["eta_s"] for r in records] == pytest.approx([15, 10, 5, 0, 0])
    assert [r.get("status") for r in records] == [None] * 4 + ["done"]


def test_threads_do_not_tear_lines_or_records(tmp_path):
    out, path = io.StringIO(), tmp_path / "metrics.jsonl"
    progress = Progress("x", 4000, interval_s=0.0, metrics=path, stream=out)

    def work(offset: int) -> None:
        for i in range(200):
            progress.update(offset + i)

    threads = [threading.Thread(target=work, args=(k * 200,)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    progress.close()
    assert len(out.getvalue().splitlines()) == 1601
    assert all(line.startswith("x  ") for line in out.getvalue().splitlines())
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == 1601


def test_a_stage_of_a_moment_claims_no_rate(clock):
    out = io.StringIO()
    progress = Progress("search", 160, "images", stream=out, clock_s=clock)
    clock.now_s += 0.001
    progress.update(160)
    progress.close()
    assert out.getvalue() == "search  160/160 images  100 %  done in 0:01\n"


def test_update_after_close_is_refused(clock):
    progress = Progress("x", 1, stream=io.StringIO(), clock_s=clock)
    progress.close()
    with pytest.raises(RuntimeError, match="x is closed"):
        progress.update(1)


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-:--"), (0, "0:00"), (0.2, "0:01"), (9, "0:09"), (61, "1:01"), (3600, "1:00:00")]
)
def test_clock(seconds, text):
    assert format_clock(seconds) == text


@pytest.mark.parametrize(
    ("rate", "text"),
    [(12345.6, "12,346 x/s"), (312.4, "312 x/s"), (3.14, "3.1 x/s"), (0.5, "0.5 x/s"), (0.02, "1.2 x/min")],
)
def test_rate(rate, text):
    assert format_rate(rate, "x") == text


def test_sums_are_shown_per_second_of_the_last_half_minute_and_over_all_at_the_end(clock, tmp_path):
    out, metrics = io.StringIO(), tmp_path / "metrics.jsonl"
    with Progress("caption", 100, "rows", 5.0, stream=out, clock_s=clock, metrics=metrics) as progress:
        clock.now_s += 60
        progress.update(10, sums={"completion_tokens": 600}, worked_s=60.0)
        clock.now_s += 60
        progress.update(20, sums={"completion_tokens": 1200}, in_flight=4)
        assert "completion_tokens/s 10  in_flight 4" in out.getvalue().splitlines()[-1]
    assert "completion_tokens/s 10" in out.getvalue().splitlines()[-1]
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [r["completion_tokens/s"] for r in records] == [10.0, 10.0, 10.0]


def test_waiting_says_what_takes_how_long_in_a_log(clock):
    out = io.StringIO()
    waiting = Waiting("ray: starting", stream=out, clock_s=clock)
    for _ in range(100):
        waiting.tick()
        clock.now_s += 1
    waiting.close()
    waiting.tick()
    assert out.getvalue().splitlines() == [f"ray: starting  {t}" for t in ("0:03", "0:10", "0:20", "0:40", "1:20")]


def test_what_starts_at_once_is_not_mentioned(clock):
    out = io.StringIO()
    with Progress("x", 10, starting="loading the model", stream=out, clock_s=clock) as progress:
        progress.update(10)
    assert out.getvalue() == "x  10/10 items  100 %  done in 0:00\n"


def test_waiting_is_a_live_line_that_vanishes(clock, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    waiting = Waiting("ray: starting", stream=out, clock_s=clock)
    clock.now_s += 1
    waiting.tick()
    assert out.getvalue() == "\r\x1b[2Kray: starting  0:01"
    waiting.close()
    assert out.getvalue().endswith("\r\x1b[2K")
    assert "\n" not in out.getvalue()


def test_a_stage_says_what_it_waits_for_until_its_first_rows(monkeypatch):
    """The real clock and thread, on a terminal, where the line is drawn every second."""
    monkeypatch.setenv("TERM", "xterm")
    drawn = threading.Event()

    class Watched(Terminal):
        def write(self, text: str) -> int:
            if "caption  loading the model  0:0" in text:
                drawn.set()
            return super().write(text)

    out = Watched()
    with Progress("caption", 10, starting="loading the model", stream=out) as progress:
        assert drawn.wait(20)
        progress.update(10)
        assert out.getvalue().split("\r\x1b[2K")[-1].startswith("caption  10/10")

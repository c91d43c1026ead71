"""Several blocking calls at once: what an interruption does to them. No Ray: nothing here waits for it."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from raysys.engine.concurrent import run_concurrently


@pytest.fixture
def interrupt_soon():
    """Ctrl-C while the main thread is waiting, as the terminal sends it."""
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    yield timer.start
    timer.cancel()


def test_results_in_order_and_the_first_failure_after_all_have_ended():
    slow_ended = threading.Event()

    def slow() -> str:
        time.sleep(0.4)
        slow_ended.set()
        return "slow"

    def failing() -> str:
        raise ValueError("failed at once")

    assert run_concurrently([slow, lambda: "quick"]) == ["slow", "quick"]
    slow_ended.clear()
    with pytest.raises(ValueError, match="failed at once"):
        run_concurrently([slow, failing])
    assert slow_ended.is_set()


def test_what_is_asked_to_stop_ends_before_the_interruption_goes_on(interrupt_soon, capsys):
    """Failed before: an interrupted `Thread.join()` marks a running thread as stopped, so nobody waited for it."""
    asked, saved = threading.Event(), []

    def training() -> None:
        assert asked.wait(20)
        time.sleep(0.6)  # writes its checkpoint
        saved.append("checkpoint")

    interrupt_soon()
    with pytest.raises(KeyboardInterrupt):
        run_concurrently([training, training], ask_to_stop=asked.set, grace_s=20)
    assert saved == ["checkpoint"] * 2
    assert "stopping: waiting up to 20 s for checkpoints" in capsys.readouterr().err


def test_without_a_request_the_interruption_is_raised_in_every_action(interrupt_soon):
    reached = []

    def action() -> None:
        try:
            for _ in range(200):
                time.sleep(0.1)
        except KeyboardInterrupt:
            reached.append("interrupted")
            raise

    interrupt_soon()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_concurrently([action, action])
    assert reached == ["interrupted"] * 2
    assert time.monotonic() - began < 8, "it did not wait for what had ended"


def test_a_second_interruption_ends_the_grace_period_of_nested_actions_only(capsys):
    """As in a study of trainings: each has threads of its own. Nobody leaves before they have ended."""
    cleaned = []

    def training() -> None:
        try:
            for _ in range(400):  # does not end when it is asked to
                time.sleep(0.1)
        finally:
            time.sleep(0.5)
            cleaned.append("training")

    def step() -> None:
        run_concurrently([training], ask_to_stop=lambda: None, grace_s=30)

    timers = [threading.Timer(s, os.kill, (os.getpid(), signal.SIGINT)) for s in (0.5, 2.0)]
    for timer in timers:
        timer.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_concurrently([step, step])
    assert cleaned == ["training"] * 2
    assert 2.0 < time.monotonic() - began < 10
    assert capsys.readouterr().err.count("stopping: waiting") == 1

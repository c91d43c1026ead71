"""Run the steps of a study; steps of one job run at the same time, and a failing model does not stop the others."""

from __future__ import annotations

import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Collection, Sequence
from itertools import groupby
from typing import Any

from raysys.errors import InputError, RunFailed
from raysys.report.folder import DONE, FAILED
from raysys.study.record import Record
from raysys.study.step import Step
from raysys.tables.results import FolderPlan, Plan

RunStep = Callable[[Step], Any]
"""Runs one step to completion and returns its summary."""


def run_steps(steps: Sequence[Step], record: Record, run_step: RunStep, room_for: Callable[[Step], int]) -> None:
    """Run `steps` in order, steps of one job at the same time. `room_for`: how many such steps may run at once, ≥ 1.

    If a step raises, the reason is recorded, the steps that need it are skipped, and all others continue. If every
    model needs the step, the study ends, because nothing can be made without it.
    """
    missing: set[str] = set()
    essential = _needed_by_all(steps)
    for job, group in groupby(steps, key=lambda step: step.job):
        ready = []
        for step in group:
            if missing.isdisjoint(step.needs):
                ready.append(step)
            else:
                missing.add(step.name)
        if not ready:
            continue
        print(f"\n── {job}", file=sys.stderr, flush=True)
        began = time.monotonic()
        try:
            failed = _run_all(ready, record, run_step, room_for, essential)
        finally:
            record.spend(job, time.monotonic() - began)
        missing |= failed


def _needed_by_all(steps: Sequence[Step]) -> set[str]:
    """The shared steps that every model needs, directly or through other steps; without models, all of them."""
    needs = {step.name: set(step.needs) for step in steps}
    for step in steps:  # a step comes after those that it needs
        needs[step.name] |= {further for name in step.needs for further in needs.get(name, ())}
    of_model: dict[str, set[str]] = {}
    for step in steps:
        if step.model is not None:
            of_model.setdefault(step.model, set()).update(needs[step.name])
    shared = {step.name for step in steps if step.model is None}
    return shared.intersection(*of_model.values())


def _run_all(
    steps: Sequence[Step],
    record: Record,
    run_step: RunStep,
    room_for: Callable[[Step], int],
    essential: Collection[str],
) -> set[str]:
    """Run the steps of one job; return the names of those that failed."""
    failed: set[str] = set()
    todo = deque(steps)

    def work() -> None:
        while True:
            try:
                step = todo.popleft()
            except IndexError:
                return
            try:
                if not _attempt(step, record, run_step, step.name in essential):
                    failed.add(step.name)
            except BaseException:
                todo.clear()
                raise

    n = min(len(steps), *(room_for(step) for step in steps))
    if n == 1:
        work()
    else:
        from raysys.engine.concurrent import run_concurrently

        run_concurrently([work] * n)
    return failed


def _attempt(step: Step, record: Record, run_step: RunStep, is_essential: bool) -> bool:
    """Run one step; return whether it succeeded. Raises if a step fails that all models need."""
    began = time.monotonic()
    try:
        run_step(step)
    except Exception as exc:
        if is_essential:
            raise
        reason = reason_of(exc)
        record.finish(step, time.monotonic() - began, reason)
        whose = "" if step.model is None else f"model {step.model} "
        print(f"raysys study: {whose}failed at “{step.name}”: {reason}", file=sys.stderr, flush=True)
        return False
    record.finish(step, time.monotonic() - began)
    return True


def reason_of(exc: BaseException) -> str:
    """The reason for a failure, on one line. For an unexpected exception the traceback is also printed."""
    while isinstance(getattr(exc, "cause", None), BaseException):  # unwrap an engine's exception around a worker's
        exc = exc.cause
    if isinstance(exc, InputError):
        return exc.what
    if isinstance(exc, RunFailed):
        return str(exc)
    traceback.print_exception(exc)
    return f"{type(exc).__name__}: {exc}".splitlines()[0]


def states(steps: Sequence[Step], record: Record) -> dict[str, str]:
    """Name → done, failed, pending, or waits (for steps that it needs)."""
    found: dict[str, str] = {}
    for step in steps:
        state = record.state_of(step)
        ready = all(found.get(name, DONE) == DONE for name in step.needs)
        found[step.name] = state if ready or state == FAILED else "waits"
    return found


def plan_of(steps: Sequence[Step], record: Record) -> Plan:
    """What running the steps would do, as far as the record knows."""
    state = states(steps, record)
    return Plan({s.name: FolderPlan(s.job, s.output, state[s.name], state[s.name] != DONE) for s in steps})

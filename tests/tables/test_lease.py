"""One run at a time: who is refused, when a dead holder is replaced, and that of several waiters one gets the lease."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from raysys.errors import InputError, RunFailed
from raysys.tables import Store, lease
from raysys.tables.lease import EXPIRES_S, Holder, Lease

HERE = Holder.this_process("toy")
ELSEWHERE = replace(HERE, host="node-7", machine="another", pid=4242)
DEADLINE_S = 60


@pytest.fixture(params=["disk", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(tmp_path if request.param == "disk" else f"memory://{tmp_path}")


def of(place: Store) -> Lease:
    return Lease(place, "_out.lease", "runs/out", "toy")


def leave(place: Store, holder: Holder, number: int = 1) -> None:
    """What a holder that was killed leaves behind."""
    place.write(f"_out.lease-{number:08d}.json", json.dumps(asdict(holder)).encode())


def gone() -> Holder:
    """A holder on this machine whose process has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return replace(HERE, pid=process.pid)


def test_a_second_run_is_refused_by_name_until_the_first_has_ended(place):
    with of(place):
        with pytest.raises(
            InputError, match=rf"another run is writing runs/out: toy on .*, process {os.getpid()}, last"
        ):
            of(place).__enter__()
        with Lease(place, "_another.lease", "runs/another", "toy"):
            pass
    assert place.names() == []
    with of(place):
        pass


@pytest.mark.parametrize("dead", ["gone", "reused"])
def test_a_dead_process_of_this_machine_is_replaced_at_once(place, dead):
    """`reused`: its number belongs to another process now."""
    leave(place, gone() if dead == "gone" else replace(HERE, started=HERE.started - 1), number=7)
    with of(place):
        assert place.names() == ["_out.lease-00000008.json"]
    assert place.names() == []


def test_a_run_that_died_while_it_replaced_another_is_replaced(place):
    for number in (3, 4):
        leave(place, gone(), number)
    with of(place):
        assert place.names() == ["_out.lease-00000005.json"]
    assert place.names() == []


def test_a_living_process_is_never_replaced_however_old_its_heartbeat(place):
    leave(place, replace(HERE, beat=time.time() - 100 * EXPIRES_S))
    with pytest.raises(InputError, match="another run is writing"):
        of(place).__enter__()


def test_another_machine_is_replaced_when_its_heartbeat_is_old(place):
    leave(place, replace(ELSEWHERE, beat=time.time() - EXPIRES_S + 50))
    with pytest.raises(InputError, match=r"toy on node-7, process 4242, last heartbeat (69|7\d) s ago") as refused:
        of(place).__enter__()
    assert "if its machine is lost, run again in " in refused.value.fix
    leave(place, replace(ELSEWHERE, beat=time.time() - EXPIRES_S - 1))
    with of(place):
        pass


@pytest.mark.parametrize("state", ["free", "dead"])
def test_of_several_waiters_one_gets_it(place, state):
    for _ in range(10):
        if state == "dead":
            leave(place, gone())
        start, done = threading.Barrier(6), threading.Barrier(6)
        held: list[bool] = []

        def wait(start=start, done=done, held=held) -> None:
            start.wait()
            try:
                with of(place):
                    held.append(True)
                    done.wait()
            except InputError:
                held.append(False)
                done.wait()

        threads = [threading.Thread(target=wait) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(held) == [False] * 5 + [True]
        assert place.names() == []


class Paused(Store):
    """A store whose first `create` is preceded by what others do in the meantime."""

    meanwhile: Callable[[], None] | None = None

    def create(self, name: str, data: bytes) -> bool:
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        return super().create(name, data)


@pytest.mark.parametrize("dead", [True, False], ids=["dead holder", "free"])
def test_a_slow_waiter_does_not_join_who_came_meanwhile(place, dead):
    """It has seen that the lease is free; until it takes it, one run comes and goes and another one starts."""
    third = of(place)

    def meanwhile() -> None:
        with of(place):
            pass
        third.__enter__()

    if dead:
        leave(place, gone(), number=5)
    slow = Paused(place.url)
    slow.meanwhile = meanwhile
    with pytest.raises(InputError, match="another run is writing"):
        of(slow).__enter__()
    third.__exit__(None, None, None)
    assert place.names() == []


def test_the_heartbeat_is_renewed(place, monkeypatch):
    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.01)
    with of(place):
        [name] = place.names()
        first, until = place.read_json(name)["beat"], time.monotonic() + DEADLINE_S
        while place.read_json(name)["beat"] == first:
            assert time.monotonic() < until


def test_a_run_that_was_replaced_while_suspended_is_stopped(place, monkeypatch):
    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.01)

    def suspended() -> None:
        until = time.monotonic() + DEADLINE_S
        with of(place):
            leave(place, ELSEWHERE, number=2)
            while time.monotonic() < until:
                time.sleep(0.01)

    with pytest.raises(RunFailed, match="runs/out was taken over"):
        suspended()
    assert place.names() == ["_out.lease-00000002.json"], "it is the other run's"

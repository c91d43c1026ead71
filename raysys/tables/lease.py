"""A lease: only one run at a time writes into one place, on disks and object stores, also across machines.

    <name>-00000001.json     who holds the lease, and when it last said that it is alive

A holder that ends removes its file. One that died leaves it: the next run takes over by creating the next number, which
only one of several can do, and only after the holder is known to be dead: its process is gone (same machine), or its
heartbeat is older than `EXPIRES_S` (another machine).
"""

from __future__ import annotations

import _thread
import json
import os
import random
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType

import psutil

from raysys.errors import InputError, RunFailed
from raysys.tables.store import Store

HEARTBEAT_S = 15.0
EXPIRES_S = 120.0
"""Age of the last heartbeat at which a holder on another machine counts as dead. Clocks may differ by less."""

ATTEMPTS = 50


@dataclass(frozen=True)
class Holder:
    """Who holds a lease.

    machine: identifies a booted machine, or a container with its own process numbers; pids compare only within it.
    started: when the process started, in the machine's own unit, because pids are reused. beat: Unix time.
    """

    job: str
    host: str
    machine: str
    pid: int
    started: float
    beat: float

    @classmethod
    def this_process(cls, job: str) -> Holder:
        pid = os.getpid()
        return cls(job, socket.gethostname(), _machine(), pid, _started(pid) or 0.0, time.time())

    @property
    def is_here(self) -> bool:
        return self.machine == _machine()

    def is_alive(self, now: float) -> bool:
        if self.is_here:
            return _started(self.pid) == self.started
        return now - self.beat < EXPIRES_S

    def refusal(self, what: str, now: float) -> InputError:
        """The error for another run that wants the lease of `what`."""
        age = max(0.0, now - self.beat)
        fix = f"wait until it has ended, or stop it with: kill {self.pid}"
        if not self.is_here:
            fix = f"wait until it has ended; if its machine is lost, run again in {max(1.0, EXPIRES_S - age):.0f} s"
        return InputError(
            f"another run is writing {what}: {self.job} on {self.host}, process {self.pid}, "
            f"last heartbeat {age:.0f} s ago",
            fix,
        )


class Lease:
    """Use as a context manager. At the start of the block it raises InputError, naming the holder, if another run
    holds the lease.

    If this run was suspended for so long that a run on another machine has taken over, the main thread is interrupted
    and RunFailed is raised at the end of the block.
    """

    def __init__(self, store: Store, name: str, what: str, job: str) -> None:
        """store, name: folder and prefix of the files. what: the place that the lease protects, for messages."""
        self._store, self._name, self._what = store, name, what
        self._holder = Holder.this_process(job)
        self._number = 0
        self._released, self._lost = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        for _ in range(ATTEMPTS):
            if self._try():
                self._thread.start()
                return self
            time.sleep(random.uniform(0.0, 0.1))
        raise InputError(f"several runs try to write {self._what} at once", "start them one after the other")

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._released.set()
        self._thread.join()
        found = self._read(self._number)
        if found is not None and replace(found, beat=self._holder.beat) == self._holder:
            self._store.remove(self._file(self._number))
        if self._lost.is_set():
            raise RunFailed(f"{self._what} was taken over by another run while this one was suspended") from exc

    def _try(self) -> bool:
        """Take the lease if nobody alive holds it. Returns False if another run was faster: look again."""
        last = max(self._numbers(), default=0)
        if last:
            holder = self._read(last)
            if holder is None:
                return False
            now = time.time()
            if holder.is_alive(now):
                raise holder.refusal(self._what, now)
        if not self._store.create(self._file(last + 1), self._contents()):
            return False
        # The file of a dead holder disappears only after its successor is there. If it has disappeared, a successor
        # came and went since we looked, and somebody else may have started again at 1.
        found = self._numbers()
        if max(found, default=0) != last + 1 or (last not in found if last else len(found) > 1):
            self._store.remove(self._file(last + 1))
            return False
        for number in found[:-1]:  # several, if a holder died before it had removed its predecessor
            self._store.remove(self._file(number))
        self._number = last + 1
        return True

    def _beat(self) -> None:
        warned = False
        while not self._released.wait(HEARTBEAT_S):
            try:
                if max(self._numbers(), default=0) > self._number:
                    self._lost.set()
                    _thread.interrupt_main()
                    return
                self._store.write(self._file(self._number), self._contents())
            except Exception as exc:  # the next heartbeat may succeed; other runs wait for EXPIRES_S
                if not warned:
                    print(f"raysys: cannot renew the lease of {self._what}: {exc}", file=sys.stderr, flush=True)
                warned = True

    def _contents(self) -> bytes:
        return json.dumps(asdict(replace(self._holder, beat=time.time()))).encode()

    def _file(self, number: int) -> str:
        return f"{self._name}-{number:08d}.json"

    def _numbers(self) -> list[int]:
        """The numbers of the lease's files, in order."""
        prefix, suffix = f"{self._name}-", ".json"
        found = (n.removeprefix(prefix).removesuffix(suffix) for n in self._store.names(suffix) if n.startswith(prefix))
        return sorted(int(number) for number in found if number.isdigit())

    def _read(self, number: int) -> Holder | None:
        """The holder in a file; None if the file has just been removed."""
        try:
            return Holder(**json.loads(self._store.read(self._file(number))))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as exc:
            path = self._store.path(self._file(number))
            raise InputError(f"{path} is damaged: {exc}", f"delete it if no other run is writing {self._what}") from exc


def _machine() -> str:
    """Boot and process namespace on Linux; the host's name elsewhere."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _started(pid: int) -> float | None:
    """When a process started; None if it is gone. On Linux in clock ticks since boot, which no clock change shifts."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        stat = Path(f"/proc/{pid}/stat")
        return float(stat.read_text().rpartition(")")[2].split()[19]) if stat.exists() else process.create_time()
    except (psutil.NoSuchProcess, OSError):
        return None

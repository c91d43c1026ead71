"""Submit a job to a cluster's job server: packages, keys, the job's log, and messages for what cannot be reached."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from zipfile import ZipFile

import aiohttp
import ray
import requests
from ray._private.runtime_env.packaging import create_package
from ray.dashboard.modules.dashboard_sdk import SubmissionClient
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobSubmissionClient

import raysys
from raysys.errors import InputError, RunFailed

for _chatty in ("ray._private.runtime_env.packaging", "ray.dashboard.modules.job.sdk"):
    logging.getLogger(_chatty).setLevel(logging.WARNING)

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
CONNECT_S = 8.0
"""How long a first answer may take, name resolution included, which has no time limit of its own."""

ANSWER_S = 120.0
"""How long the job server may be silent later; storing a package of hundreds of MB takes it some seconds."""

MAX_PACKAGE_BYTES = 500 * 2**20
"""Ray's limit for one package in the cluster's memory."""

POLL_S = 0.5

NOT_SENT = (".git", ".venv", "__pycache__", "*.pyc", "/raysys/")
"""Left out of every package. /raysys/: a checkout's package in the user's folder would hide the one that is sent."""

TOKEN = (
    "export RAY_AUTH_MODE=token, and put the token of the cluster (on its head: `ray get-auth-token`) into "
    "~/.ray/auth_token, or into a file that RAY_AUTH_TOKEN_PATH names"
)

WHERE = (
    f"give the address of the cluster's job server, for example --address {DEFAULT_ADDRESS} "
    "(8265 is the dashboard's port; 6379 and 10001 are others)"
)


@dataclass(frozen=True)
class Package:
    """A zipped folder. Its name follows from its bytes, so that a cluster that has it does not get it again."""

    label: str
    path: Path
    files: tuple[str, ...]

    @property
    def megabytes(self) -> float:
        return self.path.stat().st_size / 1e6

    def __str__(self) -> str:
        n = len(self.files)
        return f"{self.label}: {n} file{'s' if n != 1 else ''}, {self.megabytes:.1f} MB"


def pack_code(folder: Path) -> Package:
    """Zip the running raysys package into `folder`."""
    return _pack(f"raysys {raysys.__version__}", Path(raysys.__file__).parent, folder / "raysys.zip", parent=True)


def pack_folder(label: str, source: Path, folder: Path) -> Package:
    """Zip what `source` holds, except for what its .rayignore and .gitignore files name, into `folder`.

    Raises InputError if it is larger than Ray stores.
    """
    return _pack(label, source, folder / "working_dir.zip", parent=False)


def _pack(label: str, source: Path, target: Path, parent: bool) -> Package:
    create_package(str(source), target, include_gitignore=True, include_parent_dir=parent, excludes=list(NOT_SENT))
    with ZipFile(target) as packed:
        files = tuple(sorted(name for name in packed.namelist() if not name.endswith("/")))
    package = Package(label, target, files)
    if (size := target.stat().st_size) >= MAX_PACKAGE_BYTES:
        raise InputError(
            f"{source} has {size / 2**20:,.0f} MiB to upload; a cluster takes {MAX_PACKAGE_BYTES / 2**20:.0f} MiB",
            f"name what the job does not need in {source / '.rayignore'}, and put data on storage that all nodes reach",
        )
    return package


def job_server(address: str | None) -> JobServer:
    """Connect to the job server at `address`; None = RAY_API_SERVER_ADDRESS, else this machine's.

    Raises InputError within CONNECT_S if nothing answers, if it is not a job server, or if it wants another token.
    """
    url = _url(address or os.environ.get("RAY_API_SERVER_ADDRESS") or DEFAULT_ADDRESS)
    found: Future[JobServer] = Future()

    def connect() -> None:
        try:
            found.set_result(JobServer(url))
        except Exception as exc:
            found.set_exception(exc)

    # In a thread that nobody waits for at the end: a resolver that is away blocks for longer than anyone wants.
    threading.Thread(target=connect, daemon=True).start()
    try:
        return found.result(CONNECT_S)
    except TimeoutError:
        raise InputError(f"{url} does not answer within {CONNECT_S:.0f} s", WHERE) from None


def _url(address: str) -> str:
    """http://host:port. Raises InputError for the addresses of Ray's other servers."""
    scheme, _, rest = address.rpartition("://")
    if scheme not in ("", "http", "https"):
        raise InputError(f"--address {address} is not the address of a job server", WHERE)
    url = f"{scheme or 'http'}://{rest.rstrip('/')}"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # a bad port raises here only
    except ValueError:
        host = None
    if not host:
        raise InputError(f"--address {address} is not valid", WHERE)
    return url


class JobServer(JobSubmissionClient):
    """Ray's client with time limits, and with messages instead of its exceptions."""

    def __init__(self, url: str) -> None:
        # Not JobSubmissionClient's own: there RAY_ADDRESS in the environment replaces the address that was given.
        try:
            SubmissionClient.__init__(self, url)
        except AuthenticationError as exc:  # RAY_AUTH_MODE=token without a token
            raise InputError(str(exc).partition(". ")[0], TOKEN) from None
        self.url = url
        self.ray_version = self._version()

    def _version(self) -> str:
        answer = self._do_request("GET", "/api/version")
        try:
            return answer.json()["ray_version"]
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"{self.url} is not a Ray job server (it answers {answer.status_code} {answer.reason})", WHERE
            ) from None

    def version_note(self) -> str:
        """What to tell about the cluster's version of Ray; empty if it is the one here."""
        if self.ray_version == ray.__version__:
            return ""
        return f"note: the cluster runs Ray {self.ray_version}; raysys here was installed for Ray {ray.__version__}"

    def _do_request(self, method: str, endpoint: str, **kwargs: Any) -> requests.Response:
        """Raises InputError if the server cannot be reached or refuses the token."""
        try:
            return super()._do_request(method, endpoint, timeout=ANSWER_S, **kwargs)
        except AuthenticationError as exc:
            raise _denied(self.url, str(exc)) from None
        except requests.RequestException as exc:
            raise InputError(f"cannot reach {self.url}: {_reason(exc)}", WHERE) from None

    def upload(self, package: Package) -> str:
        """Store the package in the cluster unless it is there; returns its URI."""
        data = package.path.read_bytes()
        uri = f"gcs://_ray_pkg_{hashlib.sha256(data).hexdigest()}.zip"
        if not self._is_stored(uri):
            self._put(uri, data)
        return uri

    @contextmanager
    def left(self, variables: Mapping[str, str]) -> Iterator[str | None]:
        """Leave the variables in the memory of the cluster for `raysys.engine.submitted.take`, under a name that is
        used once; None without variables. If the block fails, they are overwritten.

        Ray shows a job's environment variables and metadata to everyone, and copies its packages to the disk of every
        node. It does neither with a package that no job names. It deletes one after 10 minutes, taken or not.
        """
        if not variables:
            yield None
            return
        uri = f"gcs://_raysys_{secrets.token_hex(16)}.zip"
        self._is_stored(uri)  # for the 10 minutes, which Ray counts for a name, stored or not
        self._put(uri, json.dumps(dict(variables)).encode())
        try:
            yield uri
        except BaseException:
            self._put(uri, b"")
            raise

    def _is_stored(self, uri: str) -> bool:
        """Whether the cluster has it. Asking starts the 10 minutes after which Ray deletes it unless a job uses it."""
        return self._do_request("GET", _package_path(uri)).status_code == 200

    def _put(self, uri: str, data: bytes) -> None:
        answer = self._do_request("PUT", _package_path(uri), data=data)
        if answer.status_code != 200:
            raise RunFailed(
                f"{self.url} did not store an upload ({answer.status_code} {answer.reason}): {_last_line(answer.text)}"
            )

    def start(self, entrypoint: str, runtime_env: Mapping[str, Any], submission_id: str | None) -> str:
        """Start the job; returns its id. Raises RunFailed with the server's reason if it refuses."""
        try:
            return self.submit_job(entrypoint=entrypoint, runtime_env=dict(runtime_env), submission_id=submission_id)
        except RuntimeError as exc:
            raise RunFailed(f"{self.url} did not start the job: {_last_line(str(exc))}") from None

    def follow(self, job_id: str, write: Callable[[str], None]) -> JobDetails:
        """Pass the job's log on until its end; returns its details. Raises RunFailed if the connection is lost."""

        async def copy() -> None:
            async for text in self.tail_job_logs(job_id):
                write(text)

        try:
            asyncio.run(copy())
            while not (details := self.get_job_info(job_id)).status.is_terminal():
                time.sleep(POLL_S)
        except (aiohttp.ClientError, RuntimeError, InputError) as exc:
            why = str(exc).partition("\n")[0]
            raise RunFailed(f"the connection to {self.url} was lost ({why}); the job goes on") from None
        return details


def _package_path(uri: str) -> str:
    return f"/api/packages/{uri.replace('://', '/')}"


def _denied(url: str, why: str) -> InputError:
    """The InputError for a 401 (no token was sent) or a 403."""
    if why.startswith("Authentication required"):
        return InputError(f"{url} requires a token, and none was sent", TOKEN)
    return InputError(f"{url} refuses the token", TOKEN)


def _last_line(text: str) -> str:
    """Of the traceback that Ray's server answers with; its client puts a full stop after it."""
    return (text.rstrip(" .\n").splitlines() or [""])[-1]


def _reason(exc: BaseException) -> str:
    """The first cause of an exception of the HTTP libraries, in the operating system's words if it has some."""
    while (inner := exc.__cause__ or exc.__context__) is not None:
        exc = inner
    text = getattr(exc, "strerror", None) or str(exc)
    return text if text.isprintable() else "what answers there does not speak HTTP"

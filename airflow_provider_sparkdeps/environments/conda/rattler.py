"""What rattler does for us: solve conda specs, download packages, link them into a prefix."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import unquote, urlsplit

from airflow_provider_sparkdeps.environments.conda.logins import access
from airflow_provider_sparkdeps.environments.conda.specs import SUBDIRS
from airflow_provider_sparkdeps.environments.context import Login, ProgressCallback
from airflow_provider_sparkdeps.exceptions import BuildError
from airflow_provider_sparkdeps.utils.deadline import Deadline
from airflow_provider_sparkdeps.utils.text import one_screen

if TYPE_CHECKING:
    from rattler import RepoDataRecord

T = TypeVar("T")

_SECONDS_TO_STOP = 3.0
_used_by: dict[str, int] = {}


def solve(
    specs: Sequence[str],
    channels: Sequence[str],
    *,
    platform: str,
    logins: Sequence[Login],
    deadline: Deadline,
    report: ProgressCallback,
) -> list[RepoDataRecord]:
    """Return the packages that meet the specs.

    :param specs: what is wanted.
    :param channels: names and URLs, the most important one first.
    :param platform: such as "linux-x86_64".
    :param logins: of private channels.
    :param deadline: of the build.
    :param report: told that it goes on, every few seconds.
    :raises BuildError: with the solver's explanation.
    """
    from datetime import timedelta

    import rattler

    async def run() -> list[RepoDataRecord]:
        wanted = [rattler.MatchSpec(spec, strict=True) for spec in specs]
        with access(logins) as config:
            gateway = rattler.Gateway.from_config(config, client=rattler.Client.from_config(config))
            return await rattler.solve(
                sources=list(channels),
                specs=wanted,
                gateway=gateway,
                platforms=[rattler.Subdir(_subdir(platform)), rattler.Subdir("noarch")],
                virtual_packages=rattler.VirtualPackage.detect(),
                timeout=timedelta(seconds=deadline.left("reading the channels")),
            )

    started = time.monotonic()

    def tell() -> None:
        report("resolve", f"reading the channels and solving for {time.monotonic() - started:.0f} s")

    doing = "reading the channels and solving"
    found = _finish(run, "solve the dependencies", deadline=deadline, doing=doing, logins=logins, every=5, tell=tell)
    size = sum(package.size or 0 for package in found)
    report("resolve", f"{len(found)} packages, {size / 1e6:.1f} MB, in {time.monotonic() - started:.1f} s")
    return found


def records(locked: Sequence[str]) -> list[RepoDataRecord]:
    """Return packages that are known by their URLs.

    :param locked: URLs with their hashes after `#`.
    """
    import rattler

    found = []
    for each in locked:
        url, _, digest = each.partition("#")
        channel, subdir, file_name = url.rsplit("/", 2)
        name, version, build = file_name.removesuffix(".conda").removesuffix(".tar.bz2").rsplit("-", 2)
        algorithm, _, value = digest.rpartition(":")
        package = rattler.PackageRecord(
            name,
            version,
            rattler.BuildString(build),
            0,
            subdir,
            noarch="python" if subdir == "noarch" else None,
            sha256=bytes.fromhex(value) if algorithm == "sha256" else None,
            md5=bytes.fromhex(value) if digest and not algorithm else None,
        )
        found.append(rattler.RepoDataRecord(package, file_name, url, f"{channel}/"))
    return found


def install(
    packages: list[RepoDataRecord],
    prefix: Path,
    *,
    platform: str,
    logins: Sequence[Login],
    deadline: Deadline,
    report: ProgressCallback,
) -> None:
    """Download packages and link them into a prefix.

    :param packages: all that is to be in it.
    :param prefix: an absolute path.
    :param platform: such as "linux-x86_64".
    :param logins: of private channels.
    :param deadline: of the build.
    :param report: told how far it is, once a second.
    :raises BuildError: with rattler's explanation.
    """
    import rattler

    _check_local(packages, deadline)
    progress = _Progress(len(packages))

    async def run() -> None:
        with access(logins) as config:
            await rattler.install(
                packages,
                prefix,
                client=rattler.Client.from_config(config),
                platform=rattler.Subdir(_subdir(platform)),
                # Scripts of packages are not contained in the prefix, and may do whatever they like.
                execute_link_scripts=False,
                reporter=cast("rattler.InstallerReporter", progress),
            )

    def tell() -> None:
        report("install", str(progress))

    doing = "downloading and linking"
    _finish(run, "install the packages", deadline=deadline, doing=doing, logins=logins, every=1, tell=tell)
    tell()


def _check_local(packages: list[RepoDataRecord], deadline: Deadline) -> None:
    """Of what it downloads, rattler checks the hashes; of files it doesn't."""
    for package in packages:
        if not package.url.startswith("file://"):
            continue
        deadline.left("checking packages")
        path = Path(unquote(urlsplit(package.url).path))
        algorithm, expected = ("sha256", package.sha256) if package.sha256 else ("md5", package.md5)
        if expected is None:
            continue
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, algorithm).digest()
        except OSError as error:
            raise BuildError(f"The conda package {path} can't be read: {error.strerror}.") from error
        if found != expected:
            raise BuildError(
                f"The conda package {path} is not the one that was locked: its {algorithm} is {found.hex()} instead of"
                f" {expected.hex()}. Lock again, or index the channel again."
            )


class _Progress:
    """rattler's `InstallerReporter`: only counts, since threads of rattler's call it."""

    def __init__(self, packages: int) -> None:
        self._packages = packages
        self._bytes: dict[int, int] = {}
        self._linked = 0

    def __getattr__(self, name: str) -> Callable[..., int]:
        if not name.startswith("on_"):
            raise AttributeError(name)
        return lambda *_: 0

    def on_download_start(self, cache_entry: int) -> int:
        return cache_entry

    def on_populate_cache_start(self, operation: int, _: str) -> int:
        return operation

    def on_download_progress(self, download: int, progress: int, _: int | None) -> None:
        self._bytes[download] = progress

    def on_link_complete(self, _: int) -> None:
        self._linked += 1

    def __str__(self) -> str:
        sizes = list(self._bytes.values())
        fetched = f"downloaded {len(sizes)} packages, {sum(sizes) / 1e6:.1f} MB; " if sizes else ""
        return f"{fetched}linked {self._linked} of {self._packages} packages"


def _subdir(platform: str) -> str:
    try:
        return SUBDIRS[platform]
    except KeyError:
        raise BuildError(f"There is no conda for {platform}; there is for {', '.join(SUBDIRS)}.") from None


def _finish(
    run: Callable[[], Coroutine[Any, Any, T]],
    what: str,
    *,
    deadline: Deadline,
    doing: str,
    logins: Sequence[Login],
    every: float,
    tell: Callable[[], None],
) -> T:
    """Run it in a thread of its own, since the caller's may have an event loop already; `tell` from this one."""
    if _used_by.setdefault("pid", os.getpid()) != os.getpid():
        raise BuildError(
            "rattler was used before this process was forked, and its threads don't survive that. Build in a process"
            " that was started anew, as Airflow's tasks are; with multiprocessing, by the method `spawn`."
        )
    results: list[T] = []
    failures: list[BaseException] = []
    done = threading.Event()
    running: list[tuple[asyncio.AbstractEventLoop, Any]] = []

    async def bounded() -> T:
        running.append((asyncio.get_running_loop(), asyncio.current_task()))
        return await asyncio.wait_for(run(), deadline.left(doing))

    def work() -> None:
        try:
            results.append(asyncio.run(bounded()))
        except BaseException as error:  # noqa: BLE001 - told in the caller's thread
            failures.append(error)
        finally:
            done.set()

    # What doesn't heed the cancellation must not keep the process from its end.
    thread = threading.Thread(target=work, name="sparkdeps-conda", daemon=True)
    thread.start()
    told = time.monotonic()
    try:
        # Not `thread.join`, which an interrupt makes believe that the thread has ended.
        while not done.wait(min(0.5, deadline.left(doing))):
            if time.monotonic() - told >= every:
                told = time.monotonic()
                tell()
    finally:
        # At the deadline or an interrupt: it may be writing still, and has a file with logins to remove.
        for loop, task in running if not done.is_set() else []:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(task.cancel)
            done.wait(_SECONDS_TO_STOP)
    if results:
        return results[0]
    (failure,) = failures
    if isinstance(failure, BuildError):
        raise failure
    if isinstance(failure, TimeoutError):
        deadline.left(doing)
    raise BuildError(f"rattler could not {what}. It says:\n\n{_said(failure, logins)}") from None


def _said(failure: BaseException, logins: Sequence[Login]) -> str:
    text = str(failure) or type(failure).__name__
    for login in logins:
        if login.password:
            text = text.replace(login.password, "***")
    return one_screen(text)

"""Solves conda specs, downloads packages and links them into a prefix with rattler."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import unquote, urlsplit

from airflow_provider_sparkdeps.environments.conda.specs import SUBDIRS, read_spec
from airflow_provider_sparkdeps.environments.context import BuildContext, Login
from airflow_provider_sparkdeps.exceptions import BuildError
from airflow_provider_sparkdeps.utils.text import shorten_output

if TYPE_CHECKING:
    from rattler import Channel, MatchSpec, MultiSource, RepoDataRecord

T = TypeVar("T")

CONDA_TOKEN = "conda-token"  # noqa: S105 - a user name
"""As the login name of a connection: its password is a token that is part of the URL, as in `/t/<token>/`."""

# What conda's channel `defaults` is on Linux and macOS, and its names for the parts.
DEFAULTS = {name: f"https://repo.anaconda.com/{name}" for name in ("pkgs/main", "pkgs/r")}
_SECONDS_TO_STOP = 3.0
_first_used_by: dict[str, int] = {}


class Rattler:
    """rattler, bound to the platform, logins and context of a build.

    :param platform: such as "linux-x86_64".
    :param logins: of private channels.
    :param context: deadline and progress of the build.
    :raises BuildError: if conda has no packages for the platform.
    """

    def __init__(self, platform: str, logins: Sequence[Login], context: BuildContext) -> None:
        if platform not in SUBDIRS:
            raise BuildError(f"Conda has no packages for {platform}. Choose from {', '.join(SUBDIRS)}.")
        self._subdir = SUBDIRS[platform]
        self._logins = logins
        self._context = context

    def solve(self, specs: Sequence[str], channels: Sequence[str]) -> list[RepoDataRecord]:
        """Return the packages that meet the specs.

        :param specs: conda specs.
        :param channels: names and URLs, in order of priority.
        :raises BuildError: if there is no solution, with the explanation of the solver, or if a channel can't be read.
        :raises InvalidArgumentError: if rattler can't read a spec.
        """
        from datetime import timedelta

        import rattler

        wanted = [read_spec(_with_full_channel(spec)) for spec in specs]

        doing = "reading the channels and solving"
        started = time.monotonic()

        async def run() -> list[RepoDataRecord]:
            with auth_config(self._logins) as config:
                return await rattler.solve(
                    sources=_sources(channels, wanted),
                    specs=wanted,
                    gateway=rattler.Gateway.from_config(config, client=rattler.Client.from_config(config)),
                    platforms=[rattler.Subdir(self._subdir), rattler.Subdir("noarch")],
                    virtual_packages=rattler.VirtualPackage.detect(),
                    timeout=timedelta(seconds=self._context.deadline.left(doing)),
                )

        def report() -> None:
            self._context.report("resolve", f"{doing} for {time.monotonic() - started:.0f} s")

        found = self._run_in_thread(run, "solve the dependencies", doing=doing, every=5, report=report)
        size, seconds = sum(package.size or 0 for package in found) / 1e6, time.monotonic() - started
        self._context.report("resolve", f"{len(found)} packages, {size:.1f} MB, in {seconds:.1f} s")
        return found

    def install(self, packages: list[RepoDataRecord], prefix: Path) -> None:
        """Download packages and link them into a prefix.

        :param packages: all packages of the environment.
        :param prefix: an absolute path.
        :raises BuildError: if a package can't be fetched, does not match its hash, or can't be installed.
        """
        import rattler

        _check_local_packages(packages, self._context)
        progress = _Progress(len(packages))

        async def run() -> None:
            with auth_config(self._logins) as config:
                await rattler.install(
                    packages,
                    prefix,
                    client=rattler.Client.from_config(config),
                    platform=rattler.Subdir(self._subdir),
                    # Link scripts of packages may change files outside of the prefix.
                    execute_link_scripts=False,
                    reporter=cast("rattler.InstallerReporter", progress),
                )

        def report() -> None:
            self._context.report("install", str(progress))

        self._run_in_thread(run, "install the packages", doing="downloading and linking", every=1, report=report)
        report()

    def _run_in_thread(
        self,
        run: Callable[[], Coroutine[Any, Any, T]],
        what: str,
        *,
        doing: str,
        every: float,
        report: Callable[[], None],
    ) -> T:
        """Run a coroutine in a new thread, since this one may have an event loop; call `report` in this one."""
        if _first_used_by.setdefault("pid", os.getpid()) != os.getpid():
            raise BuildError(
                "rattler was used before this process was forked, and its threads do not survive a fork. Build in a new"
                " process, as Airflow's tasks are; with multiprocessing, use the start method `spawn`."
            )
        deadline = self._context.deadline
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
            except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
                failures.append(error)
            finally:
                done.set()

        # A daemon: if it ignores the cancellation, the process can still exit.
        thread = threading.Thread(target=work, name="sparkdeps-conda", daemon=True)
        thread.start()
        reported = time.monotonic()
        try:
            # Not `thread.join`: after an interrupt it takes the thread for finished.
            while not done.wait(min(0.5, deadline.left(doing))):
                if time.monotonic() - reported >= every:
                    reported = time.monotonic()
                    report()
        finally:
            # At the deadline or an interrupt it may still be writing, and has a file with logins to remove.
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
        output = shorten_output(str(failure) or type(failure).__name__, [login.password for login in self._logins])
        raise BuildError(f"rattler could not {what}:\n\n{output}") from None


def _with_full_channel(spec: str) -> str:
    name = re.match(r"[^:]*?(?=::|/(?:linux|osx|noarch))", spec)
    return spec.replace(name[0], DEFAULTS.get(name[0], name[0]), 1) if name else spec


def _sources(channels: Sequence[str], specs: Sequence[MatchSpec]) -> list[Channel | MultiSource]:
    """Return the channels and, as in conda, those that only the specs name."""
    import rattler

    found = {(channel := rattler.Channel(DEFAULTS.get(name, name))).base_url: channel for name in channels}
    # The packages of its parts have the same priority.
    defaults = rattler.MultiSource("defaults", list(DEFAULTS.values()))
    parts = {rattler.Channel(url).base_url for url in DEFAULTS.values()} if "defaults" in channels else set()
    named = [spec.channel for spec in specs if spec.channel and spec.channel.base_url not in parts]
    found |= {channel.base_url: channel for channel in named if channel.base_url not in found}
    return [defaults if channel.name == "defaults" else channel for channel in found.values()]


def explicit_records(explicit: Sequence[str]) -> list[RepoDataRecord]:
    """Return the packages at URLs.

    :param explicit: URLs of packages, with their hashes after `#`.
    """
    import rattler

    found = []
    for each in explicit:
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


@contextlib.contextmanager
def auth_config(logins: Sequence[Login]) -> Iterator[Any]:
    """Give rattler's settings, with the logins in a file that only this user can read and that is removed afterwards.

    :raises BuildError: if there are different logins for one host.
    """
    import rattler

    hosts: dict[str, Any] = {}
    for login in logins:
        host = urlsplit(login.url).hostname
        if host is None:
            raise BuildError(f"{login.url!r} is not the URL of a channel. Set the host of the connection to a URL.")
        if login.username == CONDA_TOKEN:
            secret: dict[str, Any] = {"CondaToken": login.password}
        elif login.username:
            secret = {"BasicHTTP": {"username": login.username, "password": login.password}}
        else:
            secret = {"BearerToken": login.password}
        if hosts.setdefault(host, secret) != secret:
            raise BuildError(f"There are two different logins for {host}, and rattler uses one per host. Use one.")
    config = rattler.Config.from_toml('tls-root-certs = "system"')
    if not hosts:
        yield config
        return
    # Created with mode 0600.
    with tempfile.NamedTemporaryFile("w", prefix="sparkdeps-", suffix=".json") as file:
        json.dump(hosts, file)
        file.flush()
        config.set("authentication-override-file", file.name)
        yield config


def _check_local_packages(packages: list[RepoDataRecord], context: BuildContext) -> None:
    """Check the hashes of packages on local channels: rattler checks only those that it downloads."""
    for package in packages:
        if not package.url.startswith("file://"):
            continue
        context.deadline.left("checking packages")
        path = Path(unquote(urlsplit(package.url).path))
        algorithm, expected = ("sha256", package.sha256) if package.sha256 else ("md5", package.md5)
        if expected is None:
            continue
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, algorithm).digest()
        except OSError as error:
            raise BuildError(
                f"Could not read the conda package {path}: {error.strerror}. Restore it, or index the channel again."
            ) from error
        if found != expected:
            raise BuildError(
                f"The conda package {path} is not the one that was locked: its {algorithm} is {found.hex()} instead of"
                f" {expected.hex()}. Lock again, or index the channel again."
            )


class _Progress:
    """rattler's `InstallerReporter`. It only counts, because rattler calls it from its own threads."""

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

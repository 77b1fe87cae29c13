"""Time from an open session to the result of its first UDF: with no environment, with the recipe, with ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from airflow_provider_sparkdeps.archives import Archive, ArchiveStore
from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.spark.attach import attach_payload
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer
from airflow_provider_sparkdeps.spark.endpoint import Endpoint
from airflow_provider_sparkdeps.spark.session import Session
from benchmarks import recipe
from benchmarks.measure import ROUNDS, Claim, Outcome, in_turns, log, timed
from benchmarks.setting import MASTER, PACKAGES, plain_venv, work_directory

Attach = Callable[[Any], object]


def run() -> Outcome:
    """Use one server for environments that the cluster has already, and a new one for each first use."""
    with work_directory() as directory:
        log("building an archive, and a virtualenv for venv-pack")
        store = ArchiveStore(directory / "store")
        archive = store.build(VenvEnvironment(PACKAGES), timeout=600, progress=lambda _: None)
        payload = store.fetch(archive)
        recipe.pack(plain_venv(directory / "venv"), directory)
        figures = _warm(archive, payload, directory) | _cold(archive, payload, directory)
    return Outcome(
        figures,
        (
            Claim("attach + first UDF, uploaded before", "upload", "floor", at_most=1.15),
            Claim("attach + first UDF, by reference", "reference", "floor", at_most=1.1),
            Claim("attach + first UDF, compared with the recipe", "upload", "recipe"),
            Claim("attach + first UDF, the recipe compared with the floor", "recipe", "floor"),
            Claim("attach + first UDF, new server, compared with the recipe", "cold", "recipe, cold", at_most=0.6),
            Claim("attach, second task of a shared session", "shared", at_most=0.1),
        ),
        notes=(
            "time starts when the session is open; `other` is the floor (no environment) unless the row names "
            "the recipe.",
        ),
    )


def _warm(archive: Archive, payload: Path, directory: Path) -> dict[str, list[float]]:
    with EmbeddedServer(MASTER) as server, _session(server) as holder:
        endpoint = Endpoint(host=server.host, port=server.port)
        _use(holder, lambda session: attach_payload(session, archive, payload=lambda: payload), inside=archive)

        def shared() -> float:
            return timed(
                lambda: _expect(not attach_payload(holder, archive, payload=lambda: payload), "A file was sent again.")
            )

        return in_turns(
            {
                "floor": _in_new_session(endpoint, lambda _: None),
                "recipe": _in_new_session(endpoint, lambda session: recipe.attach(session.spark, directory)),
                "upload": _in_new_session(
                    endpoint, lambda session: attach_payload(session, archive, payload=lambda: payload), archive
                ),
                "reference": _in_new_session(
                    endpoint,
                    lambda session: attach_payload(session, archive, payload=lambda: payload, uri=payload.as_uri()),
                    archive,
                ),
                "shared": shared,
            }
        )


def _cold(archive: Archive, payload: Path, directory: Path) -> dict[str, list[float]]:
    rivals: dict[str, tuple[Attach, Archive | None]] = {
        "recipe, cold": (lambda session: recipe.attach(session.spark, directory), None),
        "cold": (lambda session: attach_payload(session, archive, payload=lambda: payload), archive),
    }

    def on_new_server(attach_to: Attach, inside: Archive | None) -> float:
        with EmbeddedServer(MASTER) as server:
            return _in_new_session(Endpoint(host=server.host, port=server.port), attach_to, inside)()

    runs = {name: (lambda rival=rival: on_new_server(*rival)) for name, rival in rivals.items()}
    return in_turns(runs, rounds=ROUNDS, warm_up=0)


@contextmanager
def _session(server: EmbeddedServer) -> Iterator[Session]:
    with Session(Endpoint(host=server.host, port=server.port), on_progress=lambda _: None) as session:
        yield session


def _in_new_session(endpoint: Endpoint, attach_to: Attach, inside: Archive | None = None) -> Callable[[], float]:
    def measure() -> float:
        with Session(endpoint, on_progress=lambda _: None) as session:
            return timed(lambda: _use(session, attach_to, inside=inside))

    return measure


def _use(session: Session, attach_to: Attach, *, inside: Archive | None) -> None:
    from pyspark.sql.functions import udf

    attach_to(session)

    @udf("string")
    def prefix(_: int) -> str:
        import sys

        return sys.prefix

    # More partitions than cores, so that each executor starts Python.
    found = {row[0] for row in session.spark.range(0, 8, 1, 4).select(prefix("id")).collect()}
    if inside:
        _expect(all(inside.short_digest in place for place in found), f"UDFs ran in {found}.")


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise SystemExit(message)

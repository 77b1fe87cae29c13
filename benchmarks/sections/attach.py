"""From an open session to the result of its first UDF: with no environment, by the recipe, and with ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from airflow_provider_sparkdeps.archives import Archive, ArchiveStore
from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.spark.attach import attach
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer
from airflow_provider_sparkdeps.spark.endpoint import Endpoint
from airflow_provider_sparkdeps.spark.session import Session
from benchmarks import recipe
from benchmarks.measure import ROUNDS, Claim, Outcome, in_turns, tell, timed
from benchmarks.setting import MASTER, PACKAGES, plain_venv, room

Attach = Callable[[Any], object]


def run() -> Outcome:
    """Use one server for all that a cluster knows already, and a new one for each very first time."""
    with room() as directory:
        tell("making an archive, and a virtualenv for venv-pack")
        store = ArchiveStore(directory / "store")
        archive = store.build(VenvEnvironment(PACKAGES), timeout=600, progress=lambda _: None)
        payload = store.fetch(archive)
        recipe.pack(plain_venv(directory / "venv"), directory)
        figures = _warm(archive, payload, directory) | _cold(archive, payload, directory)
    return Outcome(
        figures,
        (
            Claim("attach + first UDF, upload, a session holds it", "upload", "floor", at_most=1.15),
            Claim("attach + first UDF, by reference", "reference", "floor", at_most=1.1),
            Claim("attach + first UDF, against the recipe", "upload", "recipe"),
            Claim("attach + first UDF, the recipe against the floor", "recipe", "floor"),
            Claim("attach + first UDF, very first time, against the recipe", "cold", "recipe, cold", at_most=0.6),
            Claim("attach, second task of a shared session", "shared", at_most=0.1),
        ),
        notes=("time starts when the session is open; `other` is the floor unless it says the recipe.",),
    )


def _warm(archive: Archive, payload: Path, directory: Path) -> dict[str, list[float]]:
    with EmbeddedServer(MASTER) as server, _session(server) as holder:
        endpoint = Endpoint(host=server.host, port=server.port)
        _use(holder, lambda spark: attach(spark, archive, payload=payload), inside=archive)

        def shared() -> float:
            return timed(lambda: _expect(not attach(holder, archive, payload=payload), "a file was sent again"))

        return in_turns(
            {
                "floor": _in_new_session(endpoint, lambda _: None),
                "recipe": _in_new_session(endpoint, lambda spark: recipe.attach(spark, directory)),
                "upload": _in_new_session(endpoint, lambda spark: attach(spark, archive, payload=payload), archive),
                "reference": _in_new_session(
                    endpoint, lambda spark: attach(spark, archive, payload=payload, uri=payload.as_uri()), archive
                ),
                "shared": shared,
            }
        )


def _cold(archive: Archive, payload: Path, directory: Path) -> dict[str, list[float]]:
    ways: dict[str, tuple[Attach, Archive | None]] = {
        "recipe, cold": (lambda spark: recipe.attach(spark, directory), None),
        "cold": (lambda spark: attach(spark, archive, payload=payload), archive),
    }

    def on_new_server(way: Attach, inside: Archive | None) -> float:
        with EmbeddedServer(MASTER) as server:
            return _in_new_session(Endpoint(host=server.host, port=server.port), way, inside)()

    rivals = {name: (lambda way=way: on_new_server(*way)) for name, way in ways.items()}
    return in_turns(rivals, rounds=ROUNDS, warm_up=0)


@contextmanager
def _session(server: EmbeddedServer) -> Iterator[Any]:
    with Session(Endpoint(host=server.host, port=server.port), report=lambda _: None) as session:
        yield session.spark


def _in_new_session(endpoint: Endpoint, way: Attach, inside: Archive | None = None) -> Callable[[], float]:
    def measure() -> float:
        with Session(endpoint, report=lambda _: None) as session:
            return timed(lambda: _use(session.spark, way, inside=inside))

    return measure


def _use(spark: Any, way: Attach, *, inside: Archive | None) -> None:
    from pyspark.sql.functions import udf

    way(spark)

    @udf("string")
    def prefix(_: int) -> str:
        import sys

        return sys.prefix

    # More partitions than cores, so that each executor starts its Python.
    found = {row[0] for row in spark.range(0, 8, 1, 4).select(prefix("id")).collect()}
    if inside:
        _expect(all(inside.short_digest in place for place in found), f"UDFs ran in {found}")


def _expect(truth: bool, otherwise: str) -> None:
    if not truth:
        raise SystemExit(otherwise)

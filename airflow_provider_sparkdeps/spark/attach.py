"""Makes an archive the environment of a session's Python workers, while the session runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_sparkdeps.exceptions import SessionError
from airflow_provider_sparkdeps.spark import conf
from airflow_provider_sparkdeps.spark.delivery.deliver import deliver
from airflow_provider_sparkdeps.spark.session import Session
from airflow_provider_sparkdeps.utils.platforms import current_python
from airflow_provider_sparkdeps.utils.redaction import secrets_in

if TYPE_CHECKING:
    from airflow_provider_sparkdeps.archives import Archive, ArchiveStore


# Settings that are changed while an environment is attached.
_CHANGED = (*conf.ARROW, conf.PLANNER_MEMORY)
# Megabytes, more than any machine has.
_NO_LIMIT = 1 << 24
_UNITS = {"": 1, "m": 1, "g": 1 << 10, "t": 1 << 20}


@dataclass(frozen=True)
class Attached:
    """What `attach` did.

    :param is_new: whether the archive was new to the session.
    :param uri: where the cluster reads the archive itself; None if it is uploaded.
    """

    is_new: bool
    uri: str | None


def attach(
    session: Session, archive: Archive, store: ArchiveStore, *, on_secret: Callable[[str], None] | None = None
) -> Attached:
    """Make an archive the environment of a session's Python workers from now on.

    .. code-block:: python

        with Session(Endpoint(host="spark.example.org")) as session:
            attach(session, archive, store)

    The archive is sent the first time only. After that, switching between attached archives sends nothing. With an
    archive that has no pyarrow, UDFs and UDTFs that are created from now on don't use Arrow unless they ask for it.

    Functions that Spark runs in the driver's own Python (`foreachBatch`, `analyze` of UDTFs, planning of Python data
    sources) have the environment's packages if that Python has the same minor version.

    :param session: an open session.
    :param archive: the archive, as `store.build` returns it.
    :param store: the store that has the archive. If the endpoint's delivery is `reference`, the cluster reads it there.
    :param on_secret: called with each credential in the URI that the cluster reads, before anything is sent.
    :raises SessionError: if the archive's Python is not this process's, which pickles the UDFs; if it was built for
        another platform than the server's; if the cluster can't read the URI; if executors don't have the Python that
        an archive without an interpreter needs.
    """
    uri, endpoint = None, session.endpoint
    if endpoint.delivery == "reference":
        uri = store.uri(archive, expiration=endpoint.presigned_url_expiration, root=endpoint.archive_store_uri)
        if on_secret:
            for secret in secrets_in(uri):
                on_secret(secret)
    return Attached(attach_payload(session, archive, payload=lambda: store.fetch(archive), uri=uri), uri)


def attach_payload(session: Session, archive: Archive, *, payload: Callable[[], Path], uri: str | None = None) -> bool:
    """Attach an archive whose payload is not in a store; see `attach`.

    :param payload: returns the archive's local file; called only if it must be sent.
    :param uri: where the cluster reads the payload itself.
    :return: whether the archive was new to the session.
    """
    _check_python(archive)
    confs = _read(session, conf.ATTACHED, *_CHANGED, *(conf.SAVED + name for name in _CHANGED))
    # The server keeps this with the session, and clones inherit it: sha256=interpreter of each archive that was sent.
    attached = dict(entry.split("=", 1) for entry in confs.get(conf.ATTACHED, "").split())
    is_new = archive.sha256 not in attached
    if is_new:
        attached[archive.sha256] = deliver(session, archive, payload=payload, uri=uri)
    changes = _arrow_changes(confs, has_pyarrow="pyarrow" in archive.packages)
    changes[conf.ATTACHED] = " ".join(map("=".join, attached.items()))
    changes[conf.PYTHON] = attached[archive.sha256]
    changes |= _planner_changes(confs, [*attached].index(archive.sha256) + 1)
    _write(session, changes)
    return is_new


def detach(session: Session) -> None:
    """Return to the cluster's own Python. What was sent stays in the session.

    :param session: an open session.
    """
    confs = _read(session, *_CHANGED, *(conf.SAVED + name for name in _CHANGED))
    changes = {**_arrow_changes(confs, has_pyarrow=True), **_planner_changes(confs, None)}
    _write(session, {conf.PYTHON: None, **changes})


def _check_python(archive: Archive) -> None:
    python = current_python()
    if archive.python_minor != python:
        raise SessionError(
            f"The environment has Python {archive.python_minor}, but this task runs Python {python}, and UDFs can't be "
            f'pickled by one for the other. Build it with python="{python}" (the default), or run the task on Python '
            f"{archive.python_minor}."
        )


def _arrow_changes(confs: Mapping[str, str], *, has_pyarrow: bool) -> dict[str, str | None]:
    changes: dict[str, str | None] = {}
    for name in conf.ARROW:
        saved = confs.get(conf.SAVED + name)
        if has_pyarrow and saved is not None:
            changes |= {name: saved or None, conf.SAVED + name: None}
        elif not has_pyarrow and saved is None:
            # Empty if it was not set.
            changes |= {name: "false", conf.SAVED + name: confs.get(name, "")}
    return changes


def _planner_changes(confs: Mapping[str, str], number: int | None) -> dict[str, str | None]:
    """Return the settings that give each environment a process of its own in the driver.

    Spark reuses a process for functions of a session that have the same limit of memory, and modules of two
    environments can't be in one process. The limit is larger by some MB than that of the user or than any memory.

    :param number: of the environment in its session; None for none.
    """
    name = conf.PLANNER_MEMORY
    saved, current = confs.get(conf.SAVED + name), confs.get(name)
    if number is None:
        return {} if saved is None else {name: saved or None, conf.SAVED + name: None}
    before = (current or "") if saved is None else saved
    size = re.fullmatch(r"(\d+)([mgt]?)b?", before.strip().lower() or str(_NO_LIMIT))
    if not size:
        return {}
    return {name: str(int(size[1]) * _UNITS[size[2]] + number), conf.SAVED + name: before}


def _read(session: Session, *names: str) -> dict[str, str]:
    """Read settings that may not be set, in one call."""
    values = session.spark.client.get_config_with_defaults(*((name, None) for name in names))
    return {name: value for name, value in zip(names, values, strict=True) if value is not None}


def _write(session: Session, changes: Mapping[str, str | None]) -> None:
    """Set settings, or unset those that are to be None, in one call each."""
    import pyspark.sql.connect.proto as pb2

    client = session.spark.client
    pairs = [pb2.KeyValue(key=name, value=value) for name, value in changes.items() if value is not None]
    if pairs:
        client.config(pb2.ConfigRequest.Operation(set=pb2.ConfigRequest.Set(pairs=pairs)))
    if unset := [name for name, value in changes.items() if value is None]:
        client.config(pb2.ConfigRequest.Operation(unset=pb2.ConfigRequest.Unset(keys=unset)))

"""How a conda environment is built: the steps, from a wish to a prefix that can be moved anywhere."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_sparkdeps.environments.base import BuiltPrefix, Login, Report
from airflow_provider_sparkdeps.environments.conda import conda_pack, existing, rattler
from airflow_provider_sparkdeps.environments.prefix import site_packages
from airflow_provider_sparkdeps.environments.uv import Uv
from airflow_provider_sparkdeps.exceptions import BuildError
from airflow_provider_sparkdeps.utils.deadline import Deadline

if TYPE_CHECKING:
    from rattler import RepoDataRecord

    from airflow_provider_sparkdeps.environments.conda import CondaEnvironment


def build(
    wish: CondaEnvironment, prefix: Path, *, report: Report, deadline: Deadline, logins: Mapping[str, Login]
) -> BuiltPrefix:
    """Make `prefix` of a wish.

    :raises BuildError: with the words of whichever tool gave up.
    """
    with tempfile.TemporaryDirectory(prefix="conda-", dir=prefix.parent) as scratch:
        if wish.prefix:
            environment = Path(wish.prefix)
            if existing.describe(environment)[1] != wish.contents:
                raise BuildError(
                    f"{environment} is not what it was when it was described: packages came or went since. Describe"
                    " it again with from_prefix, where it lies."
                )
            lock = _lock_of_installed(environment)
        else:
            environment = Path(scratch) / "environment"
            lock = _install(wish, environment, Path(scratch), report=report, deadline=deadline, logins=logins)
        version = conda_pack.python_version(environment)
        report("relocate", f"Python {version} of {environment if wish.prefix else 'conda'}")
        post_unpack_script = conda_pack.make_relocatable(
            environment,
            prefix,
            ignore_missing_files=wish.ignore_missing_files,
            say=lambda text: report("relocate", text),
        )
    return BuiltPrefix(
        python=version,
        interpreter="bin/python",
        packages=site_packages.installed(prefix),
        lock=lock,
        post_unpack_script=post_unpack_script,
    )


def _install(
    wish: CondaEnvironment,
    environment: Path,
    scratch: Path,
    *,
    report: Report,
    deadline: Deadline,
    logins: Mapping[str, Login],
) -> tuple[str, ...]:
    channel_logins = [logins[name] for name in wish.channel_conn_ids]
    if wish.locked:
        packages = rattler.records(wish.locked)
        if not any(record.name.normalized == "python" for record in packages):
            raise BuildError("The lock has no python, which executors need: lock an environment with python in it.")
    else:
        report("resolve", f"{wish.title}, from {', '.join(wish.channels)}")
        specs = [*wish.dependencies, f"python {wish.python_minor}.*"]
        packages = rattler.solve(
            specs, wish.channels, platform=wish.platform, logins=channel_logins, deadline=deadline, report=report
        )
    rattler.install(
        packages, environment, platform=wish.platform, logins=channel_logins, deadline=deadline, report=report
    )
    version = conda_pack.python_version(environment)
    if not version.startswith(f"{wish.python_minor}."):
        raise BuildError(
            f"The lock has Python {version}, and Python {wish.python_minor} is wished for, by which UDFs are pickled:"
            f' say python="{".".join(version.split(".")[:2])}" and run the task on that, or lock another one.'
        )
    lock = tuple(_locked(record) for record in packages)
    if wish.pip:
        lock += _add_pip(wish, environment, scratch, report=report, deadline=deadline, logins=logins)
    return tuple(sorted(lock))


def _locked(record: RepoDataRecord) -> str:
    exact = f"{record.name.normalized}={record.version}={record.build}"
    if record.sha256:
        return f"{exact} sha256:{record.sha256.hex()}"
    return f"{exact} md5:{record.md5.hex()}" if record.md5 else exact


def _add_pip(
    wish: CondaEnvironment,
    environment: Path,
    scratch: Path,
    *,
    report: Report,
    deadline: Deadline,
    logins: Mapping[str, Login],
) -> tuple[str, ...]:
    phase = "resolve"
    index = logins[wish.index_conn_id] if wish.index_conn_id else None
    uv = Uv(scratch, deadline=deadline, on_line=lambda line: report(phase, line), login=index)
    python = environment / "bin" / "python"
    # What conda has installed stays: two packages over one another are neither.
    of_conda = {name: version for name, version in site_packages.installed(environment).items() if version}
    constraints = [f"{name}=={version}" for name, version in of_conda.items()]
    report(phase, f"pip: {', '.join(wish.pip)}")
    lock = [
        line
        for line in uv.resolve(wish.pip, python=python, constraints=constraints)
        if line.partition("==")[0].partition("[")[0] not in of_conda
    ]
    phase = "install"
    report(phase, f"packages of pip: {len(lock)}")
    uv.add(lock, python=python)
    return tuple(f"pip:{line}" for line in lock)


def _lock_of_installed(environment: Path) -> tuple[str, ...]:
    """What conda's own records say, and pip's for what is not conda's."""
    import json

    found = []
    for path in (environment / "conda-meta").glob("*.json"):
        facts = json.loads(path.read_text(encoding="utf-8"))
        exact = f"{facts['name']}={facts['version']}={facts['build']}"
        digest = next((f" {each}:{facts[each]}" for each in ("sha256", "md5") if facts.get(each)), "")
        found.append(exact + digest)
    of_pip = []
    for installer in environment.glob("lib/python3.*/site-packages/*.dist-info/INSTALLER"):
        if installer.read_text(encoding="utf-8").strip() not in ("conda", ""):
            name, _, version = installer.parent.name.removesuffix(".dist-info").partition("-")
            of_pip.append(f"pip:{name.replace('_', '-').lower()}=={version}")
    return tuple(sorted([*found, *of_pip]))

"""The `sparkdeps` command."""

from __future__ import annotations

import argparse
import json
import os
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from airflow_provider_sparkdeps.archives import Archive, ArchiveStore
from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.exceptions import ArchiveError, InvalidArgumentError, SparkDepsError
from airflow_provider_sparkdeps.utils.redaction import redact

_LARGEST = 10


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code.

    :param argv: the arguments after `sparkdeps`; by default, those of the process.
    """
    parser = argparse.ArgumentParser(prog="sparkdeps", description="Python environments for Spark Connect sessions")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="run the quickstart DAG on a local Airflow and Spark cluster")
    demo.add_argument(
        "--home",
        type=Path,
        default=Path(".demo"),
        help="directory for Airflow's files and the archives (default: %(default)s)",
    )
    demo.add_argument("--json", action="store_true", help="end with the report of the DAG run as JSON")
    demo.set_defaults(run=_demo)

    store = argparse.ArgumentParser(add_help=False)
    store.add_argument("--store", required=True, help="directory or URL of the archive store")
    build = commands.add_parser("build", parents=[store], help="build the archive of a virtual environment")
    build.add_argument("requirements", nargs="+", help='e.g. "pandas<3" pyarrow ./my_lib')
    build.add_argument("--python", help="minor version, e.g. 3.12 (default: the version that runs this command)")
    build.add_argument("--timeout", type=_seconds, default=1800.0, help="in seconds (default: %(default)s)")
    build.set_defaults(run=_build)
    commands.add_parser("list", parents=[store], help="list the archives of a store").set_defaults(run=_list)
    show = commands.add_parser("show", parents=[store], help="describe an archive")
    show.add_argument("key", help="key of the archive, or its first characters")
    show.add_argument("--json", action="store_true", help="print the manifest")
    show.set_defaults(run=_show)

    closure = commands.add_parser("closure", help="check what is sent to executors with a function")
    closure.add_argument("function", metavar="MODULE:FUNCTION", help="e.g. jobs.scoring:score")
    closure.add_argument("--store", help="directory or URL of the archive store")
    closure.add_argument(
        "--archive", metavar="KEY", help="key of the archive to check against, or its first characters"
    )
    closure.add_argument(
        "--py-file",
        action="append",
        default=[],
        metavar="PATH",
        help="a file that is sent with py_files; may be repeated",
    )
    closure.add_argument("--json", action="store_true", help="print the report as JSON")
    closure.set_defaults(run=_closure)

    arguments = parser.parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except SparkDepsError as error:
        print(f"sparkdeps: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # What reads the output, such as `head`, needs no more. Python would fail again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds")
    return seconds


def _demo(arguments: argparse.Namespace) -> int:
    from airflow_provider_sparkdeps.demo import run_demo

    return run_demo(arguments.home, as_json=arguments.json)


def _build(arguments: argparse.Namespace) -> int:
    environment = VenvEnvironment(arguments.requirements, python=arguments.python, base_dir=Path.cwd())
    archive = ArchiveStore(arguments.store).build(
        environment, timeout=arguments.timeout, progress=lambda line: print(line, file=sys.stderr)
    )
    print(json.dumps(archive.to_dict(), indent=1))
    return 0


def _list(arguments: argparse.Namespace) -> int:
    archives = ArchiveStore(arguments.store).list_archives()
    if not archives:
        print(f"sparkdeps: there are no archives in {redact(arguments.store)}", file=sys.stderr)
    for archive in archives:
        print(
            f"{archive.key[:12]}  {archive.kind:5}  Python {archive.python:8}  {archive.size / 1e6:8.1f} MB  "
            f"{archive.created_at}  {' '.join(archive.packages)}"
        )
    return 0


def _show(arguments: argparse.Namespace) -> int:
    archive = _find(arguments.store, arguments.key)
    print(json.dumps(archive.to_dict(), indent=1) if arguments.json else _description(archive))
    return 0


def _find(store: str, key: str) -> Archive:
    found = [archive for archive in ArchiveStore(store).list_archives() if archive.key.startswith(key)]
    if len(found) != 1:
        raise ArchiveError(
            f"{len(found)} archives have a key that starts with {key!r}. Run `sparkdeps list` to see all keys."
        )
    return found[0]


def _closure(arguments: argparse.Namespace) -> int:
    from airflow_provider_sparkdeps.spark.closures.report import inspect_closure

    if (arguments.store is None) != (arguments.archive is None):
        raise InvalidArgumentError("--store and --archive must be used together. Give both, or neither.")
    archive = _find(arguments.store, arguments.archive) if arguments.archive else None
    # As with `python -m`, modules are imported from the working directory. Like a DAG bundle's, they are sent by value.
    here = Path.cwd()
    sys.path.insert(0, str(here))
    report = inspect_closure(_load(arguments.function), archive=archive, root=here, py_files=arguments.py_file)
    print(json.dumps(report.to_dict(), indent=1) if arguments.json else report)
    return int(any(finding.level == "error" for finding in report.findings))


def _load(function: str) -> Any:
    try:
        if ":" in function:
            return pkgutil.resolve_name(function)
        problem = "it does not name a function"
    except (ImportError, AttributeError, ValueError) as error:
        problem = str(error)
    raise InvalidArgumentError(
        f"Could not load {function!r} from {Path.cwd()}: {problem}. Write MODULE:FUNCTION, e.g. jobs.scoring:score, and"
        " run the command where the module can be imported."
    )


def _description(archive: Archive) -> str:
    contents, sizes = archive.contents, archive.contents.package_sizes
    largest = ", ".join(f"{name} {sizes[name] / 1e6:.1f} MB" for name in list(sizes)[:_LARGEST])
    width = max(map(len, archive.packages), default=0)
    facts = {
        "key": archive.key,
        "kind": archive.kind,
        "Python": f"{archive.python}, {'bundled' if archive.interpreter else 'not bundled'}",
        "platform": f"{archive.platform}, glibc {contents.glibc or 'not needed'}",
        "payload": f"{archive.payload}, {archive.size / 1e6:.1f} MB, sha256 {archive.sha256}",
        "unpacked": f"{contents.files} files, {contents.unpacked_size / 1e6:.1f} MB",
        "built": f"{archive.created_at} by {archive.created_by}",
        "largest": largest,
    }
    lines = [f"{name + ':':10} {value}" for name, value in facts.items()]
    lines += ["", "packages:"]
    for name, version in archive.packages.items():
        size = f"{sizes[name] / 1e6:10.1f} MB" if name in sizes else ""
        lines.append(f"  {name:{width}}  {version:12}{size}")
    return "\n".join([*lines, "", "lock:", *(f"  {line}" for line in archive.lock)])


if __name__ == "__main__":
    sys.exit(main())

"""A git repository of this machine: its state, which a version may depend on, and a copy with the same state."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from airflow_provider_sparkdeps.environments.input_files import digest_with_mode
from airflow_provider_sparkdeps.exceptions import BuildError, InvalidArgumentError
from airflow_provider_sparkdeps.utils.text import shorten_output


def run_git(path: Path, *arguments: str) -> str | None:
    """Return the output of git; None if there is no repository, no commit or no git."""
    # Without a look at the files, no code runs that the repository's settings name. It may be that of another user.
    is_listing = arguments[0] in ("ls-files", "check-ignore", "rev-parse") and "--modified" not in arguments
    try:
        done = _run("-C", str(path), *arguments, trusted=is_listing)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return os.fsdecode(done.stdout) if done.returncode == 0 else None


def _run(*arguments: str, trusted: bool = False) -> subprocess.CompletedProcess[bytes]:
    settings = {"core.fsmonitor": "false", **({"safe.directory": "*"} if trusted else {})}
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    # Nothing is written to the repository, so that it need not be locked.
    environ |= {"GIT_OPTIONAL_LOCKS": "0", "GIT_CONFIG_COUNT": str(len(settings))}
    for number, (name, value) in enumerate(settings.items()):
        environ |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
    return subprocess.run(["git", *arguments], capture_output=True, timeout=600, check=False, env=environ)


def changed_files(repository: Path) -> list[str]:
    """Return the names of files that differ from git's index, or that git does not know and does not ignore."""
    listed = run_git(repository, "ls-files", "-z", "--modified", "--others", "--exclude-standard") or ""
    return sorted(set(listed.split("\0")) - {""})


def repository_of(path: Path) -> Path | None:
    """Return the top directory of the repository that contains a project; None if there is none.

    :raises InvalidArgumentError: if the project is a link into a repository, of which git would know other paths.
    """
    to_top = run_git(path, "rev-parse", "--show-cdup")
    if to_top is None:
        return None
    # Not `--show-toplevel`, which follows links: a checkout may be one.
    repository = Path(os.path.normpath(path / to_top.strip()))
    if not (repository / ".git").exists():
        raise InvalidArgumentError(f"{path} is a link into a git repository. Write {os.path.realpath(path)}.")
    return repository


def repository_state(repository: Path) -> dict[str, str]:
    """Return all that a version from git, or a list of files from git, may depend on."""
    asked = (
        ("rev-parse", "HEAD"),
        ("symbolic-ref", "--quiet", "HEAD"),
        ("for-each-ref", "--merged", "HEAD", "--format=%(refname) %(objectname)", "refs/tags"),
        ("diff", "--cached", "--raw", "--no-abbrev", "HEAD"),
    )
    changed = [(name, repository / name) for name in changed_files(repository)]
    return {
        "": "\0".join(run_git(repository, *each) or "" for each in asked),
        **{name: digest_with_mode(path) if path.is_file() else "" for name, path in changed},
    }


def copy_repository(source: Path, target: Path) -> None:
    """Copy a repository with its history, its index and its files, so that its state is the same."""
    target.parent.mkdir(parents=True, exist_ok=True)
    done = _run("clone", "--quiet", "--shared", "--no-checkout", str(source), str(target))
    if done.returncode != 0:
        reason = shorten_output(done.stderr.decode(errors="replace"))
        raise BuildError(f"git could not copy {source}, from which a project may take its version:\n\n{reason}")
    for setting in ("core.fileMode", "core.autocrlf", "core.eol", "core.symlinks"):
        if value := run_git(source, "config", "--get", setting):
            run_git(target, "config", setting, value.strip())
    index = run_git(source, "rev-parse", "--git-path", "index") or ""
    shutil.copy(source / index.strip(), target / ".git" / "index")
    run_git(target, "checkout-index", "--all", "--quiet")
    for name in changed_files(source):
        (target / name).unlink(missing_ok=True)
        if (source / name).is_symlink() or (source / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / name, target / name, follow_symlinks=False)

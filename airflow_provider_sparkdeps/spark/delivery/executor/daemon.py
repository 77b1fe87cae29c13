"""Runs on executors. daemon SECONDS WORKER: runs PySpark's daemon, and ends it when it has had no workers for so long.

Spark starts a daemon for each session, which forks Python workers, and keeps it until the executor ends. It ends
workers that are idle for a minute, and starts another daemon if it needs one and finds none.
"""

import os
import runpy
import signal
import sys
from pathlib import Path

_CHECKS = 6
"""How often in SECONDS it looks for workers."""


def main() -> None:
    """Run the daemon as `python -m pyspark.daemon` would."""
    seconds = float(sys.argv.pop(1))
    checks = 0
    had_workers = False

    def check(*_: object) -> None:
        nonlocal checks, had_workers
        try:
            # The launcher may have left a process that has ended.
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            checks += 1
        else:
            checks, had_workers = 0, True
        if had_workers and checks >= _CHECKS:
            # As Spark does.
            os.kill(os.getpid(), signal.SIGTERM)

    def forget() -> None:
        # Workers have no timer. They, and what they fork, may have their own.
        if signal.getsignal(signal.SIGALRM) is check:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)

    signal.signal(signal.SIGALRM, check)
    os.register_at_fork(after_in_child=forget)
    signal.setitimer(signal.ITIMER_REAL, seconds / _CHECKS, seconds / _CHECKS)
    # For a file, Python's first place to look for modules is its directory; for `-m`, the current one.
    if sys.path[0] and Path(sys.path[0]).resolve() == Path(sys.argv[0]).resolve().parent:
        sys.path[0] = str(Path.cwd())
    runpy.run_module("pyspark.daemon", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    # PySpark names the function that logs something in a UDF, and would take `__main__` below it for its own daemon.
    __name__ = "sparkdeps_daemon"
    main()

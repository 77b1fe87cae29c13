"""Runs DAGs of files in AIRFLOW__CORE__DAGS_FOLDER with `dag.test()`: `python run_dags.py MODULE:DAG ...`."""

from __future__ import annotations

import importlib
import os
import sys


def main(names: list[str]) -> int:
    """Return 0 if all DAG runs succeed."""
    from airflow.utils.db import initdb

    initdb()
    sys.path.insert(0, os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
    states = {}
    for name in names:
        module, _, dag = name.partition(":")
        states[name] = str(getattr(importlib.import_module(module), dag)().test().state)
    print(states)
    return int(set(states.values()) != {"success"})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

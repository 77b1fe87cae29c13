"""A report is a table and JSON-compatible values."""

from __future__ import annotations

import json

import numpy as np

from airflow_provider_sparkdeps.spark.closures.report import inspect_closure


def test_a_report_is_printed_as_a_table_and_survives_json() -> None:
    table = np.ones(1_000_000)
    report = inspect_closure(lambda x: table[x])
    data = report.to_dict()
    assert json.loads(json.dumps(data)) == data
    assert data["captures"][1]["name"] == "table"
    assert data["findings"][0]["fix"] == report.findings[0].fix
    text = str(report)
    for part in (
        "<lambda>: ",
        "bytes pickled",
        "used by",
        "table",
        "closure cell",
        "numpy.ndarray",
        "numpy: not known",
        "8,000,",
    ):
        assert part in text, text
    assert f"warning: {report.findings[0]}" in text.splitlines()

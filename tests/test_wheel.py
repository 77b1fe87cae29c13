"""What `pip install` brings: the package, its scripts for executors, its types and the example DAGs."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

from airflow_provider_sparkdeps.environments.uv import uv_binary

REPOSITORY = Path(__file__).parents[1]


def test_the_wheel_has_all_of_the_package_and_the_example_dags(tmp_path: Path) -> None:
    subprocess.run([uv_binary(), "build", "--quiet", "--wheel", "--out-dir", tmp_path, REPOSITORY], check=True)
    [wheel] = tmp_path.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    sources = {"airflow_provider_sparkdeps": "airflow_provider_sparkdeps"}
    sources["example_dags"] = "airflow_provider_sparkdeps/example_dags"
    expected = {
        f"{target}/{path.relative_to(REPOSITORY / source).as_posix()}"
        for source, target in sources.items()
        for path in (REPOSITORY / source).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == expected
    assert "airflow_provider_sparkdeps/py.typed" in names

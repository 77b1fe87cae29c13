"""What is refused when a DAG is parsed, and how a callable gets its arguments."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, task

from airflow_provider_sparkdeps.decorators.spark_connect import spark_connect_task
from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError, SessionError
from airflow_provider_sparkdeps.operators.python_callable import bind_arguments, call, check_result
from airflow_provider_sparkdeps.operators.spark_connect import SparkConnectPythonOperator


def score(spark, accumulators, day, limit=10, *, ds=None):
    return spark, accumulators, day, limit, ds


async def asleep(spark):
    return None


def run(python_callable: Any, *op_args: Any, **op_kwargs: Any) -> Any:
    context: Any = {"ds": "2026-11-20", "ti": "the task"}
    bound = bind_arguments(python_callable, op_args, op_kwargs, context)
    return call(python_callable, bound, {"spark": "the session", "accumulators": {}, "broadcast": len})


def test_a_callable_gets_what_it_names() -> None:
    assert run(score, "monday") == ("the session", {}, "monday", 10, "2026-11-20")
    assert run(score, day="monday", limit=1) == ("the session", {}, "monday", 1, "2026-11-20")
    assert run(lambda: 1) == 1
    assert run(lambda n, spark: (n, spark), 4) == (4, "the session")
    assert run(lambda broadcast, values: broadcast(values), [1, 2]) == 2
    assert run(lambda *args, spark, **kwargs: (args, spark, kwargs["ds"]), 1, 2) == (
        (1, 2),
        "the session",
        "2026-11-20",
    )


def test_a_wrong_call_is_rejected_when_the_dag_is_parsed() -> None:
    with DAG("wrong"), pytest.raises(TypeError, match="missing a required argument: 'day'"):
        task.spark_connect(score)()
    with DAG("wrong"), pytest.raises(TypeError, match="too many positional arguments"):
        task.spark_connect(score)("monday", 1, 2, 3)


def test_arguments_that_the_operator_sets_can_not_be_mapped() -> None:
    for name in ("spark", "accumulators", "broadcast"):
        with DAG("mapped"):
            decorated: Any = task.spark_connect(lambda spark, accumulators, broadcast, day: 1)
            with pytest.raises(TypeError, match=f"partial.. got an unexpected keyword argument '{name}'"):
                decorated.partial(**{name: 1})
            with pytest.raises(TypeError, match=f"expand.. got an unexpected keyword argument '{name}'"):
                decorated.expand(**{name: [1]})


def test_a_decorated_callable_may_be_a_partial_or_an_object() -> None:
    class Scorer:
        def __call__(self, spark, day): ...

    with DAG("callables"):
        named: Any = task.spark_connect(functools.partial(score, limit=1))("monday")
        assert named.operator.task_id == "score"
        decorated: Any = task.spark_connect(Scorer())("monday")
        assert decorated.operator.task_id == "Scorer"
    assert task.spark_connect(score).function("the session", {}, "monday") == ("the session", {}, "monday", 10, None)


@pytest.mark.parametrize(
    ("python_callable", "fields", "message"),
    [
        ("score", {}, "python_callable is of type str"),
        (asleep, {}, "asleep is an async function"),
        (score, {"op_kwargs": {"spark": 1}}, "'spark' of score is set by the operator"),
        (lambda broadcast: 1, {"op_kwargs": {"broadcast": 1}}, "'broadcast' of .* is set by the operator"),
        (score, {"py_files": "lib.py"}, r"Use a list: \['lib.py'\]"),
        (score, {"environment": ["pandas"]}, "environment is of type list. Use an environment"),
        (score, {"accumulators": ["bad"]}, "accumulators is a list"),
        (score, {"accumulators": {"bad rows": 0}}, "'bad rows' is not an identifier"),
        (score, {"accumulators": {"bad": [0]}}, "Use an int or a float"),
        (lambda spark: 1, {"accumulators": {"bad": 0}}, "has no parameter `accumulators`"),
    ],
)
def test_an_invalid_argument_is_rejected_when_the_dag_is_parsed(
    python_callable: Any, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        SparkConnectPythonOperator(task_id="score", python_callable=python_callable, **fields)


SCRIPT = "# /// script\n# dependencies = ['six==1.17.0']\n# ///\ndef count(spark):\n    return 1\n"


def in_a_file(path: Path, text: str) -> Any:
    """The function `count` of a DAG file, as Airflow loads it."""
    path.write_text(text)
    namespace: dict[str, Any] = {"__file__": str(path), "__name__": "unusual_prefix_dag"}
    exec(compile(text, path, "exec"), namespace)
    return namespace["count"]


def test_inline_is_the_environment_of_the_file_of_the_function(tmp_path: Path) -> None:
    count = in_a_file(tmp_path / "dag.py", SCRIPT)
    for function in (count, functools.wraps(count)(lambda spark: count(spark))):
        operator = SparkConnectPythonOperator(task_id="a", python_callable=function, environment="inline")
        assert operator.environment == VenvEnvironment.from_script(tmp_path / "dag.py", base_dir=tmp_path)
    with DAG("decorated"):
        decorated: Any = spark_connect_task(environment="inline")(count)()
    assert decorated.operator.environment == operator.environment


def test_inline_without_metadata_is_rejected_when_the_dag_is_parsed(tmp_path: Path) -> None:
    count = in_a_file(tmp_path / "dag.py", SCRIPT.replace("script", "other"))
    with pytest.raises(InvalidArgumentError, match=r"dag\.py has no blocks of inline metadata"):
        SparkConnectPythonOperator(task_id="a", python_callable=count, environment="inline")
    with pytest.raises(InvalidArgumentError, match="needs a function"):
        SparkConnectPythonOperator(task_id="a", python_callable=len, environment="inline")


def test_initial_values_can_be_templates_and_xcoms() -> None:
    with DAG("fine"):
        first = task.spark_connect(task_id="first", accumulators={"bad": "{{ 1 }}"})(score)("monday")
        task.spark_connect(task_id="second", accumulators=first["accumulators"])(score)("tuesday")
        task.spark_connect(task_id="third", accumulators={"bad": first})(score)("tuesday")


def test_an_environment_shows_in_the_rendered_fields() -> None:
    environment = VenvEnvironment(["pandas<3"])
    operator = SparkConnectPythonOperator(task_id="score", python_callable=score, environment=environment)
    assert "environment" in operator.template_fields
    assert "pandas<3" in str(operator.environment)


@pytest.mark.parametrize("value", [None, 1, "a", 0.5, [1, {"a": None}], {"a": (1, 2)}])
def test_json_compatible_values_can_be_returned(value: Any) -> None:
    check_result(value, multiple_outputs=False)


def test_a_result_that_can_not_be_pushed_to_xcom_is_named() -> None:
    with pytest.raises(SessionError, match="returned a generator that can't be pushed to XCom"):
        check_result((n for n in range(3)), multiple_outputs=False)
    with pytest.raises(SessionError, match="returned the key 'accumulators'"):
        check_result({"accumulators": {}}, multiple_outputs=True)


def test_parsing_the_example_loads_neither_pyspark_nor_grpc() -> None:
    script = (
        "import sys\n"
        "from example_dags import example_sparkdeps_quickstart\n"
        "print([name for name in ('pyspark', 'grpc', 'pandas', 'pyarrow') if name in sys.modules])\n"
    )
    parsed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert parsed.stdout.strip().splitlines()[-1] == "[]"

"""Some of PySpark's own tests pass in a session with an environment: windows, streams, UDTFs and cogroup."""

from __future__ import annotations

import pytest

from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer

from .run import Outcomes, Peer, build_environment, extract_tests
from .suites import PREFIX

SELECTION = {
    "pandas.test_parity_pandas_udf_window.PandasUDFWindowParityTests": """
        bounded_mixed bounded_simple growing_window mixed_sql mixed_sql_and_udf mixed_udf
        multiple_udfs replace_existing shrinking_window simple sliding_window""",
    "arrow.test_parity_arrow_udf_window.WindowArrowPythonUDFParityTests": """
        bounded_mixed bounded_simple growing_window mixed_udf multiple_udfs replace_existing shrinking_window
        simple sliding_window""",
    "streaming.test_parity_foreach.StreamingForeachParityTests": """
        streaming_foreach_with_basic_open_process_close streaming_foreach_with_simple_function
        streaming_foreach_without_open_method""",
    "pandas.streaming.test_parity_pandas_grouped_map_with_state.GroupedApplyInPandasWithStateTests": """
        apply_in_pandas_with_state_basic apply_in_pandas_with_state_basic_no_state""",
    "test_parity_python_streaming_datasource.PythonStreamingDataSourceParityTests": """
        stream_reader stream_reader_pyarrow stream_writer""",
    "test_parity_udtf.UDTFParityTests": """
        eval_with_exception simple_udtf simple_udtf_with_analyze udtf_eval_with_no_return
        udtf_init udtf_registration udtf_terminate udtf_with_analyze udtf_with_analyze_table_argument""",
    "test_parity_udtf.ArrowUDTFParityTests": """
        simple_udtf udtf_eval_with_return_stmt udtf_terminate""",
    "pandas.test_parity_pandas_cogrouped_map.CogroupedApplyInPandasTests": """
        complex_group_by different_keys different_schemas left_group_empty right_group_empty self_join simple
        with_key_left""",
    "arrow.test_parity_arrow_cogrouped_map.CogroupedMapInArrowParityTests": """
        apply_in_arrow apply_in_arrow_column_order apply_in_arrow_empty_groupby
        apply_in_arrow_returning_empty_dataframe""",
}
NAMES = [f"{PREFIX}{case}.test_{test}" for case, tests in SELECTION.items() for test in tests.split()]


@pytest.fixture(scope="module")
def outcomes(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    directory = tmp_path_factory.mktemp("peer")
    extract_tests(directory / "tests")
    (directory / "files").mkdir()
    build_environment(directory / "store")
    peer = Peer(server.url, directory / "tests", directory / "store", directory / "files")
    return peer.run(NAMES, "attached", timeout=600)


@pytest.mark.parametrize("name", NAMES, ids=[name.removeprefix(PREFIX) for name in NAMES])
def test_pysparks_own_test_passes_in_an_attached_session(outcomes: Outcomes, name: str) -> None:
    assert name in outcomes, "It did not end in time."
    assert outcomes[name].outcome == "passed", outcomes[name].message

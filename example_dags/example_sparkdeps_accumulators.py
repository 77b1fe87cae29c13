"""Count, collect and compare on executors, and continue from the values in a downstream task."""

from __future__ import annotations

from airflow.sdk import dag, task

from airflow_provider_sparkdeps import CounterOf, Max, SetOf


@dag(schedule=None, tags=["sparkdeps"])
def example_sparkdeps_accumulators():
    # Without `environment`, UDFs run in the cluster's own Python. Accumulators work there as well.
    @task.spark_connect(
        accumulators={"rows": 0, "largest": Max(), "bad_codes": CounterOf(), "countries": SetOf(limit=300)}
    )
    def morning(spark, accumulators):
        return check(spark, accumulators, [("DE", "A1", 10), ("FR", "??", 250), ("DE", "??", 7)])

    first = morning()

    # This task starts from the values of the first one, which reach it through XCom.
    @task.spark_connect(accumulators=first["accumulators"])
    def evening(spark, accumulators):
        return check(spark, accumulators, [("IT", "B2", 99), ("FR", "-", 12)])

    @task
    def report(accumulators):
        from airflow_provider_sparkdeps import decode_accumulators

        totals = decode_accumulators(accumulators)
        print(f"{totals['rows']} rows; largest {totals['largest']}; bad codes {dict(totals['bad_codes'])}")
        return sorted(totals["countries"])

    report(evening()["accumulators"])


def check(spark, accumulators, orders):
    """Return how many orders are valid; `accumulators` gets the details."""
    from pyspark.sql.functions import udf

    rows, largest, bad_codes, countries = (accumulators[name] for name in ("rows", "largest", "bad_codes", "countries"))

    @udf("boolean")
    def valid(country, code, amount):  # runs on executors
        rows.add(1)
        largest.add(amount)
        countries.add(country)
        if code.isalnum():
            return True
        bad_codes.add(code)
        return False

    data = spark.createDataFrame(orders, "country string, code string, amount long")
    return sum(row[0] for row in data.select(valid("country", "code", "amount")).collect())


example_sparkdeps_accumulators()

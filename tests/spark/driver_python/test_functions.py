"""Which functions of a request Spark runs in the driver's own Python."""

from __future__ import annotations

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from airflow_provider_sparkdeps.spark.driver_python import functions


def test_a_grouped_map_of_pyspark_4_0_has_none() -> None:
    # An imitation of the message of PySpark 4.0, which has no field for transformWithState.
    file = descriptor_pb2.FileDescriptorProto(name="pyspark40.proto", package="pyspark40")
    message = file.message_type.add(name="GroupMap")
    message.field.add(name="other", number=1, label=1, type=9)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName("pyspark40.GroupMap"))
    request = descriptor_pb2.FileDescriptorProto(name="request.proto", package="pyspark40", dependency=[file.name])
    request.message_type.add(name="Request").field.add(
        name="group_map", number=1, label=1, type=11, type_name=".pyspark40.GroupMap"
    )
    pool.Add(request)
    relation = message_factory.GetMessageClass(pool.FindMessageTypeByName("pyspark40.Request"))
    assert list(functions._functions(relation(group_map=kind(other="rows")))) == []

"""Asks Spark: a Sail server and Spark's own client, in one process. Run by `Spark` in the environment beside it.

Standard input is one JSON document: `location`, a table's place; `views`, statements; `questions`, a list of (SQL, parameters),
where a moment is ``{"moment": "2026-01-31T00:00:00"}``. Standard output is the list of their rows, moments and days as ISO 8601.
"""

import json
import sys
import warnings
from datetime import date, datetime
from typing import Any

warnings.filterwarnings("ignore", category=FutureWarning)  # of pyspark, about pandas

# Neither is in the environment that types are checked in.
from pysail.spark import SparkConnectServer  # type: ignore[import-not-found]  # noqa: E402
from pyspark.sql import SparkSession  # type: ignore[import-not-found]  # noqa: E402


def parameter(value: Any) -> Any:  # Any: JSON
    return datetime.fromisoformat(value["moment"]) if isinstance(value, dict) else value


def plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date) else value


def main() -> None:
    asked = json.load(sys.stdin)
    server = SparkConnectServer("127.0.0.1", 0)
    server.start(background=True)
    host, port = server.listening_address
    spark = SparkSession.builder.remote(f"sc://{host}:{port}").getOrCreate()
    try:
        spark.conf.set("spark.sql.session.timeZone", "UTC")
        spark.read.format("iceberg").load(asked["location"]).createOrReplaceTempView("published")
        for statement in asked["views"]:
            spark.sql(statement)
        answers = []
        for text, parameters in asked["questions"]:
            rows = spark.sql(text, args={name: parameter(value) for name, value in parameters.items()}).collect()
            answers.append([[plain(value) for value in row] for row in rows])
    finally:
        spark.stop()
        server.stop()
    json.dump(answers, sys.stdout)


main()

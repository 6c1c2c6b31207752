"""Reads an analysis' stats.parquet with polars and with DuckDB: mean sets per token of every layer at one threshold.

    pip install polars duckdb
    python read_stats.py reports/RUN/stats.parquet 0.75

Prints one JSON object with both answers, which are equal up to rounding.
"""

import json
import sys

import duckdb
import polars


def with_polars(path, eps):
    table = polars.read_parquet(path)
    chosen = table.filter(
        (polars.col("metric") == "set_ratio") & ((polars.col("eps") - eps).abs() < 1e-6)
    )
    layers = chosen.group_by("layer").agg(polars.col("value").mean()).sort("layer")
    return {
        "rows": table.height,
        "columns": table.columns,
        "rows_without_eps": table["eps"].null_count(),
        "set_ratio": {str(layer): value for layer, value in layers.iter_rows()},
    }


def with_duckdb(path, eps):
    columns = duckdb.read_parquet(path).columns
    counts = duckdb.execute("SELECT count(*), count(*) - count(eps) FROM read_parquet(?)", [path]).fetchone()
    layers = duckdb.execute(
        "SELECT layer, avg(value) FROM read_parquet(?) WHERE metric = 'set_ratio' AND abs(eps - ?) < 1e-6 "
        "GROUP BY layer ORDER BY layer",
        [path, eps],
    ).fetchall()
    return {
        "rows": counts[0],
        "columns": columns,
        "rows_without_eps": counts[1],
        "set_ratio": {str(layer): value for layer, value in layers},
    }


if __name__ == "__main__":
    path, eps = sys.argv[1], float(sys.argv[2])
    print(json.dumps({"polars": with_polars(path, eps), "duckdb": with_duckdb(path, eps)}))

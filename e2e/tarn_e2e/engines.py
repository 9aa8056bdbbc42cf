"""PyIceberg and DuckDB on a running Tarn, and the comparison of a window table with its GROUP BY."""

import math

from .server import CATALOG


def pyiceberg_table(name, catalog=CATALOG):
    from pyiceberg.catalog import load_catalog

    return load_catalog("lake", type="rest", uri=catalog).load_table(f"iot.{name}")


def pyiceberg_rows(name, columns=("*",), catalog=CATALOG):
    return pyiceberg_table(name, catalog).scan(selected_fields=tuple(columns)).to_arrow().to_pylist()


class DuckDb:
    def __init__(self, catalog=CATALOG):
        import duckdb
        import importlib

        self.connection = duckdb.connect()
        for extension in ("avro", "httpfs", "iceberg"):
            module = importlib.import_module(f"duckdb_extension_{extension}")
            load_extension(self.connection, module, extension)
        self.connection.execute("SET TimeZone='UTC'")
        self.connection.execute(
            f"ATTACH 'lake' AS lake (TYPE iceberg, ENDPOINT '{catalog}', AUTHORIZATION_TYPE 'none')"
        )
        self.connection.execute("USE lake.iot")

    def query(self, sql):
        return self.connection.execute(sql).fetchall()


def load_extension(connection, module, name):
    """The extensions come as Python packages that carry the signed binary."""
    import pathlib

    folder = pathlib.Path(module.__file__).parent
    binaries = sorted(folder.rglob(f"{name}.duckdb_extension"))
    assert binaries, f"{folder} has no {name}.duckdb_extension"
    connection.execute(f"LOAD '{binaries[0]}'")


# Both engines take these words: a window is the minute, `first` and `last` go by time, then by place in the stream.
GROUP_BY = """
SELECT date_trunc('minute', ts) AS window_start, device_id, sensor, metric,
       count(value) AS n, min(value) AS low, max(value) AS high, avg(value) AS mean, sum(value) AS total,
       stddev_samp(value) AS deviation, {first} AS opening, {last} AS closing
FROM {readings} WHERE value IS NOT NULL GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
"""
WINDOWS = """
SELECT window_start, device_id, sensor, metric, "count", "min", "max", mean, "sum", stddev, "first", "last"
FROM {windows} ORDER BY 1, 2, 3, 4
"""
TRINO = {"first": "min_by(value, ROW(ts, stream_seq))", "last": "max_by(value, ROW(ts, stream_seq))"}
DUCKDB = {"first": "arg_min(value, ROW(ts, stream_seq))", "last": "arg_max(value, ROW(ts, stream_seq))"}


def compare_windows(query, words, readings="readings", windows="readings_1m"):
    """Holds the window table against the GROUP BY, both computed by the engine; returns the number of rows compared."""
    wanted = query(GROUP_BY.format(readings=readings, **words))
    got = query(WINDOWS.format(windows=windows))
    assert len({row[:4] for row in got}) == len(got), f"{windows} has a key twice"
    assert [row[:4] for row in got] == [row[:4] for row in wanted], difference(got, wanted)
    for ours, theirs in zip(got, wanted):
        assert ours[4] == theirs[4], (ours, theirs)
        for a, b in zip(ours[5:], theirs[5:]):
            assert same(a, b), f"{ours}\n is not the GROUP BY\n{theirs}"
    return len(got)


def same(a, b):
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-6)


def difference(got, wanted):
    got, wanted = {row[:4]: row for row in got}, {row[:4]: row for row in wanted}
    missing = [wanted[key] for key in wanted.keys() - got.keys()][:3]
    extra = [got[key] for key in got.keys() - wanted.keys()][:3]
    return f"{len(got)} windows, GROUP BY gives {len(wanted)}; missing {missing}; extra {extra}"

"""duckdb_sums.py RECORDS LIMITS: how many sums of a window and a pair are over the limit of the pair.

Limits are without networks, or with a /24 on both sides: then they are found by equality, as one would.
"""

import sys

import duckdb

from measure import said

records, limits = sys.argv[1:]
db = duckdb.connect()
db.execute("SET threads = 2")
db.execute(
    f"""
    CREATE TABLE limits AS SELECT * FROM read_json(
        '{limits}', format = 'newline_delimited', columns = {{
            limit_name: 'VARCHAR', limit_value: 'BIGINT', source: 'VARCHAR', destination: 'VARCHAR'
        }}
    )
    """
)
sums = f"""
    SELECT epoch_ms(time) // 300000 AS time_window, source, destination,
        sum(bytes) AS bytes, sum(packets) AS packets
    FROM read_parquet('{records}') GROUP BY ALL
"""
(scoped,) = db.execute("SELECT count(source) > 0 FROM limits").fetchone()


def network(address):
    """The first three bytes of an IPv4 address, and ':' for all of IPv6."""
    return f"CASE WHEN contains({address}, ':') THEN ':' ELSE rtrim({address}, '0123456789') END"


if scoped:
    db.execute(
        f"""
        CREATE TABLE by_network AS SELECT limit_name, limit_value,
            {network("split_part(source, '/', 1)")} AS source,
            {network("split_part(destination, '/', 1)")} AS destination
        FROM limits
        """
    )
    query = f"""
        SELECT limit_name, sums.* FROM ({sums}) sums JOIN by_network limits
            ON limits.source = {network("sums.source")}
            AND limits.destination = {network("sums.destination")}
            AND sums.bytes > limit_value
    """
else:
    query = f"SELECT limit_name, sums.* FROM ({sums}) sums JOIN limits ON sums.bytes > limit_value"

said(lambda: len(db.execute(query).fetchall()))

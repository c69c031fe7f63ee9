"""to_parquet.py FILE: records as `floodmark convert` writes them, from standard input, as Parquet."""

import sys

import duckdb

duckdb.sql("SET threads = 2")
duckdb.sql(
    """
    COPY (
        SELECT * FROM read_json(
            '/dev/stdin', format = 'newline_delimited', columns = {
                time: 'TIMESTAMP', source: 'VARCHAR', destination: 'VARCHAR',
                bytes: 'BIGINT', packets: 'BIGINT'
            }
        )
    ) TO '%s' (FORMAT parquet)
    """
    % sys.argv[1]
)

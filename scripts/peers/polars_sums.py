"""polars_sums.py RECORDS LIMITS: how many sums of a window and a pair are over the limit of the pair.

Limits are without networks, or with a /24 on both sides: then they are found by equality, as one would.
"""

import os
import sys

# Read when the library is loaded.
os.environ["POLARS_MAX_THREADS"] = "2"

import polars as pl  # noqa: E402

from measure import said  # noqa: E402

records, limits = sys.argv[1:]
limits = pl.read_ndjson(limits)
sums = (
    pl.scan_parquet(records)
    .group_by(pl.col("time").dt.epoch("ms") // 300_000, "source", "destination")
    .agg(pl.col("bytes").sum(), pl.col("packets").sum())
)


def network(address):
    """The first three bytes of an IPv4 address, and ':' for all of IPv6."""
    is_v6 = address.str.contains(":", literal=True)
    return pl.when(is_v6).then(pl.lit(":")).otherwise(address.str.strip_chars_end("0123456789"))


sides = ["source", "destination"]
if "source" in limits.columns:
    limits = limits.with_columns(
        network(pl.col(side).str.split("/").list.first()).alias(f"{side}_network") for side in sides
    ).drop(sides)
    joined = sums.with_columns(
        network(pl.col(side)).alias(f"{side}_network") for side in sides
    ).join(limits.lazy(), on=[f"{side}_network" for side in sides])
else:
    joined = sums.join(limits.lazy(), how="cross")
query = joined.filter(pl.col("bytes") > pl.col("limit_value"))

said(lambda: query.collect(engine="streaming").height)

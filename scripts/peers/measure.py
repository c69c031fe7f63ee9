"""Says what a query took, beside what it found."""

import resource
import time


def said(query):
    """Runs it, and prints how many rows it found, its CPU seconds and its seconds."""
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    found = query()
    after, wall = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter() - begun
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(found, cpu, wall)

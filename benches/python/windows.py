"""Means of overlapping windows of a large array by joblib, which maps the array into its workers.

usage: windows.py --version | --run

Prints the versions, or milliseconds. Fails without joblib or numpy, and if a mean is wrong.
"""

import os
import sys
import tempfile
import time

import joblib
import numpy

LEN, WINDOW, STEP, SLEEP, WORKERS = 10_000_000, 500_000, 100_000, 0.01, 2


def slow_mean(data, start):
    time.sleep(SLEEP)
    return data[start : start + WINDOW].mean()


def run():
    data = (numpy.arange(LEN) * 7919 % 1000) / 1000
    starts = range(0, LEN - WINDOW, STEP)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        file = os.path.join(folder, "data")
        joblib.dump(data, file)
        mapped = joblib.load(file, mmap_mode="r")
        with joblib.Parallel(n_jobs=WORKERS) as parallel:
            parallel(joblib.delayed(slow_mean)(mapped, start) for start in starts[:WORKERS])  # workers start
            begin = time.perf_counter()
            means = parallel(joblib.delayed(slow_mean)(mapped, start) for start in starts)
            elapsed = time.perf_counter() - begin
    assert len(means) == 95
    assert all(abs(mean - data[start : start + WINDOW].mean()) < 1e-9 for mean, start in zip(means, starts))
    return elapsed * 1e3


if __name__ == "__main__":
    if sys.argv[1] == "--version":
        print(f"joblib {joblib.__version__}, numpy {numpy.__version__}")
    else:
        print(run())

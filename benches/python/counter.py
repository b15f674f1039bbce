"""Python's side of the bench: the same counter, the same tasks. Prints name=number lines; wrong counts fail.

The counter is written as users write it. Pools start with fork, Linux's default up to 3.13.
"""
import multiprocessing as mp
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor

QUICK = "--quick" in sys.argv
CONTEXT = mp.get_context("fork")
STAY = 0.02  # the executor starts workers on demand, so tasks stay for a while; subtracted


def scaled(n):
    return n // 10 if QUICK else n


def add(value, n):
    for _ in range(n):
        with value.get_lock():
            value.value += 1


def add_together(value, n, start, spans, seat):
    start.wait()
    begin = time.monotonic_ns()
    add(value, n)
    spans[2 * seat] = begin
    spans[2 * seat + 1] = time.monotonic_ns()


def echo(n):
    return n


def stay(_):
    time.sleep(STAY)
    return os.getpid()


def uncontended():
    n = scaled(200_000)
    value = CONTEXT.Value("Q", 0)
    begin = time.perf_counter_ns()
    add(value, n)
    elapsed = time.perf_counter_ns() - begin
    assert value.value == n
    return elapsed / n


def two_processes():
    n = scaled(100_000)
    value, start, spans = CONTEXT.Value("Q", 0), CONTEXT.Barrier(2), CONTEXT.Array("q", 4)
    workers = [CONTEXT.Process(target=add_together, args=(value, n, start, spans, seat)) for seat in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert value.value == 2 * n
    return (max(spans[1], spans[3]) - min(spans[0], spans[2])) / (2 * n)


def pool():
    begin = time.perf_counter()
    with ProcessPoolExecutor(2, mp_context=CONTEXT) as executor:
        pids = list(executor.map(stay, range(2)))
        start = time.perf_counter() - begin - STAY
        assert len(set(pids)) == 2

        times = []
        for i in range(scaled(1000)):
            begin = time.perf_counter()
            assert executor.submit(echo, i).result() == i
            times.append(time.perf_counter() - begin)
        times.sort()

        n = scaled(5000)
        begin = time.perf_counter()
        futures = [executor.submit(echo, i) for i in range(n)]
        assert sum(future.result() for future in futures) == n * (n - 1) // 2
        rate = n / (time.perf_counter() - begin)
    return start * 1e3, times[len(times) // 2] * 1e6, rate


if __name__ == "__main__":
    print(f"uncontended_ns={uncontended()}")
    print(f"two_processes_ns={two_processes()}")
    start_ms, round_trip_us, tasks_per_second = pool()
    print(f"start_ms={start_ms}")
    print(f"round_trip_us={round_trip_us}")
    print(f"tasks_per_second={tasks_per_second}")

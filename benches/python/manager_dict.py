"""The map table in Python: multiprocessing.Manager().dict().

usage: manager_dict.py u64|str ENTRIES PROCESSES INSERT_MS PHASE_MS

Prints nanoseconds per operation as each process sees it: insert into empty; get, 95/5, 50/50 uniform; the same by zipf.
"""

import multiprocessing
import random
import sys
import time


def work(shared, keys, value, orders, seat, parties, limits, barrier, results):
    costs = []

    def phase(limit, operations):
        barrier.wait()
        begin = time.perf_counter_ns()
        end, done = begin + limit * 1_000_000, 0
        for operation, key in operations:
            if operation:
                shared[key] = value
            elif shared[key] != value:
                raise SystemExit("a wrong value")
            done += 1
            if time.perf_counter_ns() > end:
                break
        costs.append((time.perf_counter_ns() - begin) / done)

    phase(limits[0], ((True, key) for key in keys[seat::parties]))
    barrier.wait()
    if seat == 0:
        shared.update({key: value for key in keys})  # what time did not allow
    for order in orders:
        for writes in (0, 5, 50):
            rounds = ((random.randrange(100) < writes, key) for _ in range(1000) for key in order)
            phase(limits[1], rounds)
    results.put(costs)


def main():
    kind, n, parties = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    limits = int(sys.argv[4]), int(sys.argv[5])
    random.seed(1)
    numbers = [random.getrandbits(63) for _ in range(n)]
    keys = numbers if kind == "u64" else [f"{number:016x}" for number in numbers]
    value = 1 if kind == "u64" else "v" * 100
    uniform = random.choices(keys, k=n)
    by_rank = random.choices(keys, weights=[1 / (i + 1) ** 0.99 for i in range(n)], k=n)
    context = multiprocessing.get_context("fork")
    with context.Manager() as manager:
        shared, barrier, results = manager.dict(), context.Barrier(parties), context.SimpleQueue()
        arguments = (shared, keys, value, (uniform, by_rank))
        workers = [
            context.Process(target=work, args=(*arguments, seat, parties, limits, barrier, results), daemon=True)
            for seat in range(parties)
        ]
        for worker in workers:
            worker.start()
        costs = [results.get() for _ in workers]
        for worker in workers:
            worker.join()
    print(*(sum(column) / parties for column in zip(*costs)))


if __name__ == "__main__":
    main()

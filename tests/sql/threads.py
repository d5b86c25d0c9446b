"""Doing things at the same time."""

import threading
from collections.abc import Callable


def run_at_once(*tasks: Callable[[], object]) -> None:
    """Run each in a thread of its own; raise what any of them raised."""
    failures: list[Exception] = []
    begin = threading.Barrier(len(tasks))

    def run(task: Callable[[], object]) -> None:
        try:
            begin.wait()
            task()
        except Exception as failure:  # noqa: BLE001 - raised again below
            failures.append(failure)

    threads = [threading.Thread(target=run, args=[task]) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]

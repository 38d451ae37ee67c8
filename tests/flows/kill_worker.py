"""A process that extracts with four threads until it is killed: ``python -m tests.flows.kill_worker NAME``."""

import itertools
import sys
import threading

import django


def main() -> None:
    """Extract distinct texts for ever; say when each thread has had its first answer."""
    django.setup()
    from pydantic import BaseModel

    import llmcache

    class Person(BaseModel):
        """A person."""

        name: str
        age: int

    def work(thread: int) -> None:
        for number in itertools.count():
            llmcache.extract(f"{sys.argv[1]} thread {thread} text {number}", Person, max_retries=0)
            if number == 0:
                print(thread, flush=True)

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()

"""A process that asks, and says how it fares: ``python -m tests.faults.worker``, told by lines of JSON what to do."""

import time

from tests.flows import log_worker

REST_SECONDS = 0.1
"""How long a database of leases is left alone here: a test waits for the end of it."""


class Worker(log_worker.Worker):
    """What this process does, by its name."""

    def hasten(self) -> None:
        """Leave a database alone for a shorter time."""
        from llmcache import lease_rows

        lease_rows.REST_SECONDS = REST_SECONDS  # type: ignore[misc]

    def left_alone(self) -> bool:
        """Answer whether a tier, or the place of its leases, is left alone, for it could not be reached."""
        from llmcache.engine import process

        now = process.current()
        rests = getattr(getattr(now.leases, "_place", None), "_rests_until", 0.0)
        return rests > time.monotonic() or any(state.breaker == "open" for state in now.tiers.states())


if __name__ == "__main__":
    log_worker.main(Worker)

"""A process that asks, and says how it fares: ``python -m tests.faults.worker``, told by lines of JSON what to do."""

from tests.flows import log_worker


class Worker(log_worker.Worker):
    """What this process does, by its name."""

    def left_alone(self) -> bool:
        """Answer whether a tier is left alone, for it could not be reached."""
        from llmcache.engine import process

        return any(state.breaker == "open" for state in process.current().tiers.states())


if __name__ == "__main__":
    log_worker.main(Worker)

"""A process that works at runs of warming: ``python -m tests.flows.warming_worker``, told as ``log_worker`` is."""

from typing import Any

from tests.flows.log_worker import Worker, main


class Warmer(Worker):
    """What this process does, by its name."""

    def claims_end_after(self, seconds: float) -> None:
        """Let claims of dead processes be free sooner."""
        from llmcache.warming import claims, work

        claims.SECONDS = seconds
        work.LOOK_SECONDS = seconds / 4

    def prepare(self, texts: list[str], **options: Any) -> str:
        """Answer with the id of a run."""
        from llmcache.warming.runs import prepare

        return prepare(texts, kind="person", **options).uid

    def work(self, run: str, **options: Any) -> dict[str, Any]:
        """Work at a run, and answer with how far it is."""
        from llmcache.warming.work import work

        return _told(work(run, **options))

    def progress(self, run: str) -> dict[str, Any]:
        """Answer with how far a run is, once all that can be known is in the ledger."""
        import llmcache
        from llmcache.warming.runs import progress

        llmcache.flush()
        return _told(progress(run))

    def purse(self, run: str) -> list[int]:
        """Answer with the permits of a run, and what is held and spent."""
        from llmcache.models import WarmingRun

        row = WarmingRun.objects.get(uid=run)
        return [row.permits, row.held_pico_usd, row.spent_pico_usd]

    def texts_left(self) -> int:
        """Answer with how many rows still hold a text."""
        from llmcache.models import WarmingItem

        return WarmingItem.objects.exclude(text="").count()

    def plan(self, texts: list[str]) -> int:
        """Answer with the number of a plan."""
        from llmcache.models import WarmingPlan

        return WarmingPlan.objects.create(name="plan", source="texts", texts="\n".join(texts), kind="person").pk

    def run_plan(self, plan: int) -> str:
        """Answer with the id of a run, or with an error's code."""
        import llmcache
        from llmcache.warming.plans import run_plan

        try:
            return run_plan(plan).uid
        except llmcache.LLMCacheError as error:
            return error.code

    def work_inside_a_transaction(self, run: str) -> str:
        """Answer with what is said to that."""
        from django.db import transaction

        import llmcache

        with transaction.atomic():
            try:
                return self.work(run)["state"]
            except llmcache.InvalidRequest as error:
                return str(error)

    def calls(self) -> dict[str, int]:
        """Answer with how many calls of each outcome the ledger has, all of them for warming."""
        from collections import Counter

        from llmcache.models import ProviderCall

        return Counter(ProviderCall.objects.filter(ahead="warming").values_list("outcome", flat=True))


def _told(progress: Any) -> dict[str, Any]:
    found = {name: getattr(progress, name) for name in progress.__slots__}
    return {name: value if isinstance(value, (int, str)) else str(value) for name, value in found.items()}


if __name__ == "__main__":
    main(Warmer)

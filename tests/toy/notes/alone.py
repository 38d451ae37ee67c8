"""What each of the toy project's tests asserts: that it is alone, though all of them ask for the same text."""

import llmcache
from llmcache.models import CacheEntry, ProviderCall, UsageBucket
from notes.types import Title

TEXT = "The printer is on fire"
OUTCOMES = ["miss", "hit", "hit"]
COUNTS = {"misses": 1, "hits": 2, "calls": 1, "collapsed": 0, "errors": 0}


def outcomes() -> list[str]:
    """Ask three times, and return how each was answered."""
    return [llmcache.extract_with_info(TEXT, Title).outcome for _ in OUTCOMES]


async def aoutcomes() -> list[str]:
    """Ask three times, one after another, and return how each was answered."""
    return [(await llmcache.aextract_with_info(TEXT, Title)).outcome for _ in OUTCOMES]


def assert_alone() -> None:
    """Fail unless there are no entries, rows or counts but those of three calls that are made here."""
    assert ProviderCall.objects.count() == CacheEntry.objects.count() == UsageBucket.objects.count() == 0
    assert outcomes() == OUTCOMES
    assert_counted()


def assert_counted() -> None:
    """Fail unless rows and counts are those of three calls."""
    stats = llmcache.stats()
    assert {name: getattr(stats, name) for name in COUNTS} == COUNTS
    assert stats.spent_usd > 0
    assert stats.saved_usd == 2 * stats.spent_usd
    assert ProviderCall.objects.count() == CacheEntry.objects.count() == 1
    assert {bucket.outcome: bucket.count for bucket in UsageBucket.objects.all()} == {"miss": 1, "hit": 2}


async def aassert_alone() -> None:
    """Fail unless there are no entries, rows or counts but those of three calls that are made here."""
    assert await ProviderCall.objects.acount() == 0
    assert await aoutcomes() == OUTCOMES
    stats = await llmcache.astats()
    assert {name: getattr(stats, name) for name in COUNTS} == COUNTS
    assert await ProviderCall.objects.acount() == 1

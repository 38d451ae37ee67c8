"""The contract of tiers over every kind of cache that a project may have."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.cache import caches

from llmcache.testing.tier_contract import TierContract, tier_of
from llmcache.tiers.base import ByteTier
from llmcache.tiers.django_tier import DjangoTier
from tests.contract.aliases import ALIAS, BROKEN, KINDS, SHARED_BY, aliases, in_caches


class TestAliases(TierContract):
    """All kinds, over real stores."""

    @pytest.fixture(autouse=True, params=KINDS)
    def caches_of_a_kind(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
        self.kind: str = request.param
        self.made: list[ByteTier] = []
        with (
            aliases(request, tmp_path) as make,
            in_caches(**{ALIAS: make.settings(self.kind), BROKEN: make.broken(self.kind)}),
        ):
            yield
            for tier in self.made:
                if isinstance(tier, DjangoTier):
                    tier.drain(10)
                    tier.close()
            caches.close_all()

    def make_tier(self) -> ByteTier:
        return self._tier(ALIAS)

    def make_broken_tier(self) -> ByteTier | None:
        return self._tier(BROKEN) if BROKEN in caches.settings else None

    def _tier(self, alias: str) -> ByteTier:
        self.made.append(tier_of(alias))
        return self.made[-1]

    def test_who_shares_it_is_told(self) -> None:
        expected = SHARED_BY.get(self.kind, "machine" if "SQLite" in self.kind else "network")
        assert self.make_tier().state().shared == expected

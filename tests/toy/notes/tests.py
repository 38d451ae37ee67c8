"""The project's own tests; each would see what another left."""

import threading

from django.db import connection, transaction
from django.test import Client, SimpleTestCase, TestCase, TransactionTestCase

import llmcache
from llmcache.models import ProviderCall
from llmcache.testing import IsolatedMixin
from notes.alone import OUTCOMES, TEXT, aassert_alone, aoutcomes, assert_alone, assert_counted, outcomes
from notes.models import Note
from notes.types import Title


class InTransactions(TestCase):
    """Django's usual test case."""

    note: Note

    @classmethod
    def setUpTestData(cls) -> None:
        """Extract for the whole class."""
        cls.note = Note.objects.create(text=TEXT, title=llmcache.extract(TEXT, Title).title)

    def test_one(self) -> None:
        """Is alone."""
        assert Note.objects.get() == self.note
        assert_alone()

    def test_two(self) -> None:
        """Is alone too."""
        assert Note.objects.get() == self.note
        assert_alone()

    def test_within_a_transaction_of_its_own(self) -> None:
        """A call within ``atomic`` is the same test's, and a rollback there keeps its row."""
        with transaction.atomic():
            first = outcomes()
            transaction.set_rollback(True)
        assert first == OUTCOMES
        assert_counted()

    def test_by_the_client(self) -> None:
        """A page's calls are the test's."""
        for expected in ("miss", "hit"):
            assert Client().get("/look/", {"text": TEXT}).json()["outcome"] == expected
        llmcache.flush()
        assert ProviderCall.objects.count() == 1

    async def test_async(self) -> None:
        """Is alone in an event loop."""
        await aassert_alone()


class InTransactionsToo(TestCase):
    """Another class, so that two processes have something to share."""

    def test_one(self) -> None:
        """Is alone."""
        assert_alone()

    def test_two(self) -> None:
        """Is alone too."""
        assert_alone()

    async def test_async(self) -> None:
        """Is alone in an event loop."""
        await aassert_alone()

    async def test_async_two(self) -> None:
        """Is alone in another event loop."""
        await aassert_alone()


class WithoutTransactions(IsolatedMixin, TransactionTestCase):
    """Tests whose rows are really committed, and removed afterwards."""

    def test_one(self) -> None:
        """Is alone."""
        assert_alone()

    def test_two(self) -> None:
        """Is alone too."""
        assert_alone()

    def test_in_another_thread(self) -> None:
        """A thread that the test starts is the test's."""
        found: list[str] = []

        def ask() -> None:
            found.extend(outcomes())
            connection.close()

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
        assert found == OUTCOMES
        assert_counted()

    async def test_async(self) -> None:
        """Is alone in an event loop."""
        await aassert_alone()


class WithoutDatabase(IsolatedMixin, SimpleTestCase):
    """Tests that may not use the database."""

    def test_one(self) -> None:
        """Is alone."""
        assert outcomes() == OUTCOMES

    def test_two(self) -> None:
        """Is alone too."""
        assert outcomes() == OUTCOMES

    def test_flush(self) -> None:
        """What cannot be written says so, and fails nothing."""
        assert outcomes() == OUTCOMES
        assert not llmcache.flush()

    async def test_async(self) -> None:
        """Is alone in an event loop."""
        assert await aoutcomes() == OUTCOMES

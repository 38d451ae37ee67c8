"""How many rows there are, without counting them all."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Final

from django.core.paginator import Paginator
from django.db import connections
from django.db.models import QuerySet
from django.utils.translation import gettext as _

from llmcache.dashboard import figures

MOST: Final = 10_000
"""Rows that are counted, and that pages reach: further down a database reads all that lies above."""


class BoundedPaginator(Paginator):
    """Pages over the first ``MOST`` rows; a page that there is not is the nearest one that there is."""

    @cached_property
    def count(self) -> int:
        """Return how many rows the pages reach."""
        return min(self._counted, MOST)

    @property
    def reaches_all(self) -> bool:
        """Whether the pages reach every row."""
        return self._counted <= MOST

    @cached_property
    def told(self) -> str:
        """How many rows there are, as text: exact where they are few, else an estimate or the least it can be."""
        if self.reaches_all:
            return figures.count(self.count)
        estimate = self._estimate()
        if estimate is not None and estimate > MOST:
            return _("about %(number)s") % {"number": figures.count(estimate)}
        return _("more than %(number)s") % {"number": figures.count(MOST)}

    @cached_property
    def _counted(self) -> int:
        rows: Any = self.object_list
        return rows.order_by()[: MOST + 1].count()

    def _estimate(self) -> int | None:
        """Return what PostgreSQL's planner believes of the whole table; None for a part, or when it knows nothing."""
        rows: Any = self.object_list
        if not isinstance(rows, QuerySet) or rows.query.where:
            return None
        connection = connections[rows.db]
        if connection.vendor != "postgresql":
            return None
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT reltuples::bigint FROM pg_class WHERE oid = to_regclass(%s)",
                [connection.ops.quote_name(rows.model._meta.db_table)],
            )
            found = cursor.fetchone()
        # Never analysed is -1.
        return found[0] if found and found[0] is not None and found[0] > 0 else None

    def validate_number(self, number: Any) -> int:
        """Return the nearest page to a number; the first for what is none."""
        try:
            return max(1, min(int(number), self.num_pages))
        except (TypeError, ValueError):
            return 1

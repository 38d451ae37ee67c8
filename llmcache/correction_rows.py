"""Humans' answers, read from the database by who has learned from the log that there is one."""

from __future__ import annotations

import logging
import threading
from typing import Final

from django.views.decorators.debug import sensitive_variables

from llmcache.engine.corrected import HumanAnswer

logger = logging.getLogger("llmcache.call")

_MOST_TOLD: Final = 1_000


class CorrectionRows:
    """The corrections of one name space in one database. Reading one takes one statement, and raises nothing."""

    def __init__(self, using: str, namespace: str) -> None:
        self._using = using
        self._namespace = namespace
        self._works = True
        self._unfit: set[bytes] = set()
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """Take a new lock: the old one may have been held by a thread that the child does not have."""
        self._lock = threading.Lock()

    @sensitive_variables()
    def find(self, keys: tuple[bytes, ...]) -> HumanAnswer | None:
        """Return what a human has answered for a request with these keys; None when nobody has, or it cannot be read.

        The newest that stands, whatever is known of the log here: what is known to stand may just have been withdrawn.
        """
        from llmcache.invalidation_rows import id_of
        from llmcache.models import Correction

        rows = Correction.objects.using(self._using).filter(
            namespace=self._namespace, key__in=[key.hex() for key in keys], invalidation__active=True
        )
        try:
            found = (
                rows.order_by("-invalidation_id")
                .values_list("invalidation__uid", "answer", "cost_pico_usd", "latency_ms", "is_pin")
                .first()
            )
        except Exception as error:  # noqa: BLE001  # of whatever database: a call goes on without it
            self._tell(error)
            return None
        self._tell(None)
        if found is None:
            return None
        uid, answer, cost, latency_ms, is_pin = found
        return HumanAnswer(id_of(uid), answer.encode(errors="surrogatepass"), cost, latency_ms, is_pin)

    @sensitive_variables()
    def find_in_thread(self, keys: tuple[bytes, ...]) -> HumanAnswer | None:
        """Do as ``find`` in a thread of our own, which keeps no connection."""
        from llmcache.invalidation_rows import InvalidationRows

        rows = InvalidationRows(self._using, self._namespace)
        try:
            with rows.reading():
                return self.find(keys)
        except Exception as error:  # noqa: BLE001  # as above
            self._tell(error)
            return None
        finally:
            rows.close()

    def note_unfit(self, row_id: bytes, kind: str, response_type: str) -> None:
        """Say once that a human's answer does not pass its type's validation any more."""
        with self._lock:
            if row_id in self._unfit or len(self._unfit) >= _MOST_TOLD:
                return
            self._unfit.add(row_id)
        logger.warning(
            "The correction %s of an answer of kind %r does not pass the validation of %s, so the provider is asked "
            "at each of its calls. Correct the answer anew, or withdraw the correction.",
            row_id.hex()[:12],
            kind,
            response_type,
        )

    def _tell(self, error: Exception | None) -> None:
        with self._lock:
            changed, self._works = self._works != (error is None), error is None
        if not changed:
            return
        if error is None:
            logger.info("Corrections can be read again.")
        else:
            logger.warning(
                "Corrections cannot be read: %s. Those that no tier holds are not served, and the provider is asked, "
                "until they can be.",
                type(error).__name__,
            )

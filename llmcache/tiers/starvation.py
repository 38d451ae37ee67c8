"""How long this thread was ready to run and had no processor.

A hundred processes that begin at once on two cores each get their turn late. What an operation takes then says nothing
of its server, and who left the server alone for it would ask a provider for what another process has asked already.
"""

from __future__ import annotations

import os
from typing import Final

# On CPU, waiting for one, both in nanoseconds, and how often: "sched-stats" of the Linux kernel's documentation.
_FILE: Final = "/proc/thread-self/schedstat"


def waited() -> float:
    """Return the seconds for which this thread has waited for a processor since it began; 0 where nobody tells."""
    try:
        file = os.open(_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0.0
    try:
        return int(os.read(file, 100).split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0
    finally:
        os.close(file)

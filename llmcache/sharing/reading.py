"""An exported file, read from its first line to its last one: a line that is refused does not hold up the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from django.views.decorators.debug import sensitive_variables

from llmcache.engine.runtime import Runtime
from llmcache.sharing.fields import UnusableLineError, parsed
from llmcache.sharing.incoming import Incoming, UnwritableTierError
from llmcache.sharing.lines import is_end, longest_line, require_header
from llmcache.warming.lines import Source, lines


class Reading:
    """One file on its way in.

    ``on_refused`` is told of each line that is refused: the place, as ``entries.jsonl:7``, and why.
    """

    def __init__(
        self,
        now: Runtime,
        source: Source,
        incoming: Incoming,
        on_refused: Callable[[str], object],
        *,
        stops_at_first: bool,
    ) -> None:
        self.line = 0
        """The number of the line that was read last."""
        self.refused = 0
        self.became: Counter[str] = Counter()
        """How many entries became what, by the words of ``incoming.Outcome``."""
        self.trouble: str | None = None
        """What has ended it before its end, in a sentence."""
        self.is_whole = False
        """Whether its last line was met, with as many entries before it as it says."""
        self._now = now
        self._source = source
        self._incoming = incoming
        self._on_refused = on_refused
        self._stops_at_first = stops_at_first
        self._entries = 0
        self._has_begun = False

    @sensitive_variables()
    def go_on(self, should_stop: Callable[[], bool], at: Callable[[int], object]) -> None:
        """Read until the end, until something is in the way, or until somebody wants an end; ``at`` is told the line.

        Raises the database's errors, and ``ConfigurationError`` where nobody can tell what was invalidated.
        """
        most = longest_line(self._now)
        try:
            for number, line in lines(self._source, most):
                self.line = number
                if line is None or line.strip():
                    self._take(line, most)
                at(number)
                if self.trouble is not None or should_stop():
                    return
        finally:
            # Also of what has come before an interrupt.
            self._settle()
        if not self._has_begun:
            self.trouble = f"{self._source.name} is empty: an export has a first and a last line."

    @sensitive_variables()
    def _take(self, line: bytes | None, most: int) -> None:
        try:
            if line is None:
                raise UnusableLineError(f"has more than {most} bytes, which no export has.")
            told = parsed(line)
            if not self._has_begun:
                require_header(told, self._now)
                self._has_begun = True
            elif is_end(told):
                self.is_whole = told.get("entries") == self._entries
            else:
                self.became[self._incoming.take(told)] += 1
                self._entries += 1
        except UnusableLineError as error:
            self._refuse(f"{self._source.name}:{self.line}: {error}")
        except UnwritableTierError as error:
            self._note_unwritable(error)

    def _settle(self) -> None:
        try:
            self._incoming.settle()
        except UnwritableTierError as error:
            self._note_unwritable(error)

    def _note_unwritable(self, error: UnwritableTierError) -> None:
        self.trouble = (
            f"The tier {error.args[0]!r} cannot be written: stopped at line {self.line}. Run it again when it can; "
            "what is there already is left as it is. See: manage.py llmcache_doctor"
        )

    def _refuse(self, told: str) -> None:
        if not self._has_begun:
            # Nothing after it can be understood.
            self._has_begun, self.trouble = True, told
            return
        self.refused += 1
        self._entries += 1
        self._on_refused(told)
        if self._stops_at_first:
            self.trouble = f"Stopped at line {self.line}, which is refused. What came before it is imported."

"""Seals: what a secret of ``KEY_SECRETS`` does to keys, names and bytes.

From each secret come three keys of their own purpose: for the hash that is a request's key, so that who reads a store
cannot tell by guessing what was asked; for the MAC in an envelope, so that who writes to it cannot forge an answer; and
for the hash of a subject in the ledger. The secret's id, which is no secret, stands in the names of entries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from llmcache.setting_values import KeySecret


@dataclass(frozen=True, slots=True)
class Seal:
    """One secret at work; without an id there is no secret."""

    id: str | None = None
    key_hash: bytes = field(default=b"", repr=False)
    mac: bytes = field(default=b"", repr=False)
    _subject: bytes = field(default=b"", repr=False)

    def subject_hash(self, subject: str) -> str:
        """Return what stands for a subject, which may be a person, in the ledger."""
        data = subject.encode()
        if self.id is None:
            return hashlib.sha256(data).hexdigest()
        return hashlib.blake2b(data, key=self._subject, digest_size=32).hexdigest()


NO_SEAL: Final = Seal()


def seal_of(secret: KeySecret) -> Seal:
    """Return the seal of a secret."""
    return Seal(secret.id, *(_derived(secret.secret, purpose) for purpose in (b"key", b"mac", b"subject")))


def seals_of(secrets: Sequence[KeySecret]) -> tuple[Seal, ...]:
    """Return the seals of secrets in their order; the first one is used to write. Never empty."""
    return tuple(map(seal_of, secrets)) or (NO_SEAL,)


def _derived(secret: bytes, purpose: bytes) -> bytes:
    return hashlib.blake2b(key=secret, person=b"llmcache " + purpose, digest_size=32).digest()

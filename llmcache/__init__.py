"""Typed data from language models, paid for once.

    ticket = llmcache.extract(email.body, Ticket)

The way of one call, and the modules in its order:

    extraction    the front door: ``extract`` and its sisters
    hits          calls that a tier answers: nearly all end here
    batches       many calls as one: the keys read together, equal ones asked once; ``samples`` of one request
    streams       a value while its answer is being written; ``server_events`` takes it to a browser
    functions     a function's own values, kept as answers are
    tenancy       whose call it is, where the call does not say
    prepared      what is known of a call before its content, found by its arguments
    answering     from arguments to an answer: the way of every other call
    request       the arguments, checked
    content       parts and messages: what is in the key of them, sent, and kept; ``Image`` and ``File``
    plans         what does not depend on the content, compiled once per type, model and parameters
    keys          the 32 bytes that are equal exactly when two requests may share an answer
    sealing       what a secret does to keys, names and bytes
    engine        the policy (every decision, no I/O), the ports that carry it out in the caller's thread or in the
                  background loop, flights, what a process holds
    invalidation  what must not be served any more, by decision; the engine keeps the log of it and asks it
    rewriting     another TTL, or a new answer, for one entry; ``kept_calls`` makes the call again
    corrections   what is served in place of the provider's answer, because a person has said so
    housekeeping  what is done now and then: ``planned`` invalidations, ``marking`` and ``pruning`` of rows; ``tasks``
                  has Celery do it, by messages of ``sending``
    warming       what will be asked, asked ahead of its use: within a budget, by any number of processes
    sharing       entries as JSON lines: exported by one project, and imported by another without trust
    explaining    why a call is answered from the cache or is not; told by tiers, log and ledger
    schema_history  what response types looked like, and what a change of them has left behind
    tiers         memory over stores of bytes
    envelope      the bytes of an entry
    providers     how an API is asked (its faces), the schema in the body, the attempt itself; a function in its place
    money         the journal: every attempt before it leaves and after it ends; usage, prices, estimates, figures

Its pages are ``dashboard`` and ``admin_pages``, served by ``urls`` and ``admin``; its commands ``management``, of which
one asks ``diagnosis`` what answers.

Adapters to other libraries are ``contrib``, which nothing here loads.

A step knows only the steps below it. ``conf`` is the one reader of settings
(``setting_values`` says what each takes), ``exceptions`` the tree of errors,
``backends`` the two cache backends that a project names in ``CACHES``.
"""

from llmcache.batches.batch import Batch, Finished
from llmcache.bypassing import bypass
from llmcache.content.parts import File, Image
from llmcache.exceptions import (
    AsyncContext,
    AuthenticationFailed,
    BudgetExceeded,
    ConfigurationError,
    ExtractionFailed,
    FlightTimeout,
    InputTooLarge,
    InvalidRequest,
    InvalidText,
    LedgerFull,
    LLMCacheError,
    NotCached,
    NotRewritten,
    ProviderCallsForbidden,
    ProviderError,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
    RecursiveExtract,
    Refused,
    TenantMissing,
    Truncated,
    UnsupportedType,
    ValidationFailed,
)
from llmcache.explaining.door import aexplain, explain
from llmcache.explaining.explanations import Explanation
from llmcache.extraction import (
    Extraction,
    Extractor,
    aextract,
    aextract_iterable,
    aextract_many,
    aextract_partial,
    aextract_samples,
    aextract_with_completion,
    aextract_with_info,
    as_completed,
    extract,
    extract_iterable,
    extract_many,
    extract_partial,
    extract_samples,
    extract_with_completion,
    extract_with_info,
)
from llmcache.flushing import aflush, flush
from llmcache.functions.decorators import CacheInfo, cached
from llmcache.invalidation import Invalidated, ainvalidate, aundo, invalidate, undo
from llmcache.money.estimates import SavingsEstimate, estimate_savings
from llmcache.money.reports import Stats, astats, stats
from llmcache.tiers.base import TierState
from llmcache.warming.door import awarm, warm

__version__ = "0.1.0"

__all__ = [
    "AsyncContext",
    "AuthenticationFailed",
    "Batch",
    "BudgetExceeded",
    "CacheInfo",
    "ConfigurationError",
    "Explanation",
    "Extraction",
    "ExtractionFailed",
    "Extractor",
    "File",
    "Finished",
    "FlightTimeout",
    "Image",
    "InputTooLarge",
    "InvalidRequest",
    "InvalidText",
    "Invalidated",
    "LLMCacheError",
    "LedgerFull",
    "NotCached",
    "NotRewritten",
    "ProviderCallsForbidden",
    "ProviderError",
    "ProviderTimeout",
    "ProviderUnavailable",
    "RateLimited",
    "RecursiveExtract",
    "Refused",
    "SavingsEstimate",
    "Stats",
    "TenantMissing",
    "TierState",
    "Truncated",
    "UnsupportedType",
    "ValidationFailed",
    "aexplain",
    "aextract",
    "aextract_iterable",
    "aextract_many",
    "aextract_partial",
    "aextract_samples",
    "aextract_with_completion",
    "aextract_with_info",
    "aflush",
    "ainvalidate",
    "as_completed",
    "astats",
    "aundo",
    "awarm",
    "bypass",
    "cached",
    "estimate_savings",
    "explain",
    "extract",
    "extract_iterable",
    "extract_many",
    "extract_partial",
    "extract_samples",
    "extract_with_completion",
    "extract_with_info",
    "flush",
    "invalidate",
    "stats",
    "undo",
    "warm",
]

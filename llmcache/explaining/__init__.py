"""Why a call is answered from the cache, or is not.

door              ``llmcache.explain``
explanations      what was found
words             what is said of it
reasoning         the way of a call, step by step
sightings         what the tiers hold
ledger_sightings  what the rows tell
nearest           the entry that is most like the call, and in what it differs
"""

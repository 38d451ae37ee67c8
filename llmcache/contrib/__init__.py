"""Neighbours: adapters to libraries that a project may have.

Each is imported by its own name where a project asks for it, and not by ``import llmcache``:

    shelf         what the caches of other libraries have in common: bytes in the tiers, by the rules of all answers
    looks         a shelf's looks, remembered until the value comes
    waiting       what a caller in an event loop has to wait for
    instructor    a cache for Instructor's ``cache=``, and its clients as providers
    langchain     a cache for LangChain's ``set_llm_cache``
    celery_beat   plans of warming among django-celery-beat's periodic tasks
"""

"""Neighbours: adapters to libraries that a project may have. Each is imported by its own name, and by nobody else.

shelf         what the caches of neighbours have in common: bytes in the tiers, under all their rules
instructor    a cache for Instructor's ``cache=``, and an Instructor client as a provider
langchain     a cache for LangChain's ``set_llm_cache``
"""

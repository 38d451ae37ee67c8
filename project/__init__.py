"""The demo and development project of llmcache: SQLite, no service, no environment variable needed."""

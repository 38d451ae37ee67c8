"""What tests and demonstrations of code that uses llmcache need; nothing here is loaded by the app itself."""

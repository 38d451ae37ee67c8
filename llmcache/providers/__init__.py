"""Providers: who is asked, and what is sent to them."""

"""How one call gets its answer: decisions, what carries them out, and what one process holds for it."""

"""How long the texts of columns may be."""

from typing import Final

MAX_KIND: Final = 100
MAX_NAME: Final = 200
"""Characters of a model, a type's name, a tenant or an id of the provider's; what is longer is cut."""
MAX_CONDITION: Final = 1_000
"""Characters of a condition, which is never cut: it would be about others."""

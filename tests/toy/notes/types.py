"""What the toy project extracts."""

from pydantic import BaseModel


class Title(BaseModel):
    """The title of a note."""

    title: str
    urgent: bool

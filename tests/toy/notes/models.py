"""What the toy project keeps."""

from django.db import models


class Note(models.Model):
    """A note and what was found in it."""

    text = models.TextField()
    title = models.CharField(max_length=200)

    def __str__(self) -> str:
        return self.title

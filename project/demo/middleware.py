"""What is looked at before a form is read."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils.deprecation import MiddlewareMixin

from project.demo.views import too_large


class FormLimit(MiddlewareMixin):
    """Answers a form that is too large to be read with a page that says so.

    Django refuses it too, when it looks for the form's token; while DEBUG is on, with a traceback.
    """

    def process_request(self, request: HttpRequest) -> HttpResponse | None:
        """Return the page for a body that is larger than Django reads."""
        length = request.META.get("CONTENT_LENGTH") or ""
        too_much = length.isdecimal() and int(length) > settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        return too_large(request) if too_much else None

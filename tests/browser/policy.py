"""A content policy for every page; Django 5.2 has no middleware for one."""

from django.http import HttpRequest, HttpResponse
from django.utils.deprecation import MiddlewareMixin

POLICY = "default-src 'self'"


class StrictPolicy(MiddlewareMixin):
    """Lets pages load what is the site's own, and nothing that is written into them."""

    def process_response(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        """Add the policy to the one that a page may have: a browser obeys all of them."""
        own = response.headers.get("Content-Security-Policy")
        response.headers["Content-Security-Policy"] = f"{own}, {POLICY}" if own else POLICY
        return response

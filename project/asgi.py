"""The project as an ASGI application, its static files included: it is looked at on the machine it runs on."""

import os

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
application = ASGIStaticFilesHandler(get_asgi_application())

"""The project as a WSGI application, its static files included: it is looked at on the machine it runs on."""

import os

from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
application = StaticFilesHandler(get_wsgi_application())

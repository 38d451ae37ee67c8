"""Plans of warming as rows of django-celery-beat."""

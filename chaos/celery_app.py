"""The Celery application of workers that are killed: its broker is the Redis of the scene, in a database of its own."""

import django
from celery import Celery
from django.conf import settings

django.setup()
app = Celery("chaos", broker=settings.CACHES["shared"]["LOCATION"].removesuffix("/0") + "/1")
app.conf.update(
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    # Scenes share a Redis.
    task_default_queue=settings.LLMCACHE["NAMESPACE"],
)
app.autodiscover_tasks(["llmcache"])

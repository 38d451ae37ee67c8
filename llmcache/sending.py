"""Messages to Celery: tasks of this package, told to the project's broker within bounded time.

Nothing here is imported, and Celery is not, before a setting or a task asks for it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from django.views.decorators.debug import sensitive_variables

from llmcache.engine.handing import PATIENCE_SECONDS, NotHandedOver
from llmcache.exceptions import LLMCacheError
from llmcache.kinds import registered_type

if TYPE_CHECKING:
    from celery import Celery

    from llmcache.conf import Settings
    from llmcache.engine.call import Call

logger = logging.getLogger("llmcache.tasks")

CONNECT_SECONDS: Final = 1.0
SHARES: Final = 4
"""Worker processes that work at one run at most, each with as many calls at the same time as the run says."""
_FALLBACK: Final = "default"
"""What Celery calls the app that it makes where the project has none."""


@sensitive_variables()
def send_refresh(settings: Settings, call: Call) -> None:
    """Send a task that asks anew for what a call asks for. Raises ``NotHandedOver``, and what the broker raises.

    The task gets the key alone, and makes the call again of what is kept: what cannot be made again is refused here.
    """
    _require_made_again(settings, call)
    # After that time the process asks for itself, and what comes then would find nothing to do.
    send("refresh_entry", call.key.hex(), expires=PATIENCE_SECONDS)


def send(name: str, *ids: str | int, **options: Any) -> None:
    """Send one of ``llmcache.tasks``, with ids alone, now. Raises ``NotHandedOver``, and what the broker raises.

    It opens a connection of its own, with short limits and without retries: that of the project's pool may wait for a
    broker for ever. A broker that takes connections and says nothing may hold it up all the same.
    """
    app = celery_app()
    task = app.tasks[f"llmcache.tasks.{name}"]
    with app.connection_for_write(connect_timeout=CONNECT_SECONDS, transport_options=_limits(app)) as connection:
        task.apply_async(ids, connection=connection, retry=False, ignore_result=True, **options)


def try_to_send(name: str, *ids: str | int, **options: Any) -> bool:
    """Send as ``send`` does; where that fails say so in the log, and return False."""
    try:
        send(name, *ids, **options)
    except Exception as error:  # noqa: BLE001  # of whatever broker
        why = str(error) if isinstance(error, NotHandedOver) else type(error).__name__
        logger.warning("The task %s was not sent: %s.", name, why)
        return False
    return True


def share_out(uid: str) -> bool:
    """Have several workers work at a run of warming; return whether a message is on its way.

    Where none is, whoever keeps house finds a run at which nobody works.
    """
    return all(try_to_send("work_on_run", uid) for _ in range(SHARES))


def celery_app() -> Celery:
    """Return the project's Celery app; raises ``NotHandedOver`` where a message to it would reach nobody else."""
    app = project_app()
    if app.conf.task_always_eager:
        raise NotHandedOver("tasks run where they are sent (task_always_eager)")
    return app


def project_app() -> Celery:
    """Return the project's Celery app; raises ``NotHandedOver`` where there is none, or no telling which it is.

    Celery itself knows an app as the current one in that thread alone which has made it.
    """
    try:
        from celery import _state
    except ImportError:
        raise NotHandedOver("Celery is not installed (pip install django-llmcache[celery])") from None
    # Registers the tasks with every app.
    import llmcache.tasks as _tasks  # noqa: F401

    chosen: Any = _state.default_app
    if chosen is None or chosen.main == _FALLBACK:
        made: list[Any] = [app for app in _state._get_active_apps() if app.set_as_current]
        if len(made) != 1:
            told = "there are several Celery apps: call set_default() of one" if made else "there is no Celery app"
            raise NotHandedOver(f"{told}; import the project's own where Django starts")
        chosen = made[0]
    return chosen


def _limits(app: Celery) -> dict[str, Any]:
    limits: dict[str, Any] = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}
    url = str(app.conf.broker_write_url or app.conf.broker_url or "")
    if url.startswith(("redis", "sentinel", "unix")):
        limits |= {"socket_connect_timeout": CONNECT_SECONDS, "socket_timeout": CONNECT_SECONDS}
    elif url.startswith(("amqp", "pyamqp")) or not url:
        limits |= {"read_timeout": CONNECT_SECONDS, "write_timeout": CONNECT_SECONDS}
    return limits


@sensitive_variables()
def _require_made_again(settings: Settings, call: Call) -> None:
    from llmcache.response_types import response_type

    kind = call.plan.kind
    if settings.keep_requests == "no":
        raise NotHandedOver("LLMCACHE['KEEP_REQUESTS'] is 'no', so that no task could make a request again")
    try:
        annotation = registered_type(settings, kind)
        response = None if annotation is None else response_type(annotation)
    except LLMCacheError:
        response = None
    if response is None or (response.name, response.fingerprint) != (
        call.plan.response.name,
        call.plan.response.fingerprint,
    ):
        raise NotHandedOver(f"LLMCACHE['KINDS'][{kind!r}]['type'] does not register their response type", kind)

"""Composition root: the only place that creates connections, servers and tasks."""

from sidecar.app.application import Application
from sidecar.app.commands import (
    rebuild_shards,
    reconcile_reports,
    report_once,
    serve_as_worker,
    serve_until_signal,
    settle_once,
    supervise,
)
from sidecar.app.keys import Secrets, load_secrets, read_secret

__all__ = [
    "Application",
    "Secrets",
    "load_secrets",
    "read_secret",
    "rebuild_shards",
    "reconcile_reports",
    "report_once",
    "serve_as_worker",
    "serve_until_signal",
    "settle_once",
    "supervise",
]

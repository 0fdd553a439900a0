"""Rows of the route table about webhooks; `table` has them all."""

from http import HTTPStatus

from sidecar.inbound.http import webhooks
from sidecar.inbound.http.routing import Auth, Role, Route

_OK = HTTPStatus.OK

WEBHOOK_ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        path="/webhooks/{provider}",
        handler=webhooks.post_webhook,
        role=Role.ADMIN,
        auth=Auth.SIGNATURE,
        summary="Take a billing provider's webhook in; signed as the provider signs it",
        statuses=(_OK,),
        response_model=webhooks.WebhookAnswer,
    ),
    Route(
        method="GET",
        path="/api/v1/webhooks",
        handler=webhooks.list_webhooks,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="List the objects that webhooks named, by id",
        statuses=(_OK,),
        query_model=webhooks.InboxQuery,
        response_model=webhooks.InboxPage,
    ),
    Route(
        method="POST",
        path="/api/v1/webhooks/{object_key}/retry",
        handler=webhooks.retry_webhook,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="Fetch an object from its provider now",
        statuses=(_OK, HTTPStatus.NOT_FOUND),
        response_model=webhooks.InboxObjectAnswer,
    ),
)

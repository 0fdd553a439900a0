"""Rows of the route table about notices; `table` has them all."""

from http import HTTPStatus

from sidecar.inbound.http import notices
from sidecar.inbound.http.routing import Auth, Role, Route

NOTICE_ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/api/v1/notices",
        handler=notices.list_notices,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="List notices and what became of them, the newest first",
        statuses=(HTTPStatus.OK,),
        query_model=notices.NoticesQuery,
        response_model=notices.NoticePage,
    ),
    Route(
        method="POST",
        path="/api/v1/notices/{notice_id}/retry",
        handler=notices.retry_notice,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="Try a notice's failed deliveries anew",
        statuses=(HTTPStatus.OK, HTTPStatus.NOT_FOUND),
        response_model=notices.NoticeAnswer,
    ),
)

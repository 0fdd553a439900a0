"""Rows of the route table about billing providers; `table` has them all."""

from http import HTTPStatus

from sidecar.inbound.http import providers
from sidecar.inbound.http.routing import Auth, Role, Route

_OK = HTTPStatus.OK
_NOT_FOUND = HTTPStatus.NOT_FOUND
_PROVIDERS = "/api/v1/customers/{customer_id}/providers"

PROVIDER_ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path=_PROVIDERS,
        handler=providers.list_provider_customers,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="List what billing providers know of a customer",
        statuses=(_OK, _NOT_FOUND),
        response_model=providers.ProviderCustomerList,
    ),
    Route(
        method="PUT",
        path=f"{_PROVIDERS}/{{provider}}",
        handler=providers.put_provider_customer,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="Set what a billing provider knows of a customer, and whether it collects",
        statuses=(_OK, _NOT_FOUND),
        request_model=providers.ProviderCustomerBody,
        response_model=providers.ProviderCustomerAnswer,
        shown_fields=("collect",),
    ),
    Route(
        method="DELETE",
        path=f"{_PROVIDERS}/{{provider}}",
        handler=providers.delete_provider_customer,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="Forget what a billing provider knows of a customer; answers what it was",
        statuses=(_OK, _NOT_FOUND),
        response_model=providers.ProviderCustomerAnswer,
    ),
    Route(
        method="GET",
        path="/api/v1/collections",
        handler=providers.list_collections,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="List how far collecting has come, by invoice id",
        statuses=(_OK,),
        query_model=providers.CollectionsQuery,
        response_model=providers.CollectionPage,
    ),
    Route(
        method="GET",
        path="/api/v1/collections/{invoice_id}",
        handler=providers.get_collection,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="Read how far collecting an invoice has come, with every reference that was sent",
        statuses=(_OK, _NOT_FOUND),
        response_model=providers.CollectionWithAttempts,
    ),
    Route(
        method="POST",
        path="/api/v1/collections/{invoice_id}/retry",
        handler=providers.retry_collection,
        role=Role.ADMIN,
        auth=Auth.ADMIN,
        summary="Look at a failed collection again; its last reference is asked about first",
        statuses=(_OK, _NOT_FOUND),
        response_model=providers.CollectionAnswer,
    ),
)

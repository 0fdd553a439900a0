"""The part of our own admin API about invoices, as its callers see it."""

from typing import Any
from urllib.parse import quote

from sidecar.outbound.admin_api import AdminApi

Answer = dict[str, Any]


class InvoicesApi:
    """Calls over an open `AdminApi`; raises what that raises."""

    def __init__(self, api: AdminApi) -> None:
        """Use the session of `api`."""
        self._api = api

    async def list_invoices(self, filters: dict[str, str], limit: int) -> list[Answer]:
        """Invoices, that which ended last first, at most `limit`."""
        return await self._api.list_pages("/api/v1/invoices", filters, limit)

    async def read(self, invoice_id: str) -> Answer:
        """One invoice with its lines."""
        return await self._api.call("GET", _invoice(invoice_id))

    async def preview(self, customer_id: str) -> Answer:
        """What the running period comes to."""
        return await self._api.call("GET", f"{_customer(customer_id)}/invoice-preview")

    async def close(self, customer_id: str) -> Answer:
        """Have a period that is over closed without grace."""
        return await self._api.call("POST", f"{_customer(customer_id)}/invoices/close")

    async def set_anchor(self, customer_id: str, anchor: str | None) -> Answer:
        """When the customer's periods begin."""
        path = f"{_customer(customer_id)}/billing-anchor"
        return await self._api.call("PUT", path, {"anchor": anchor})

    async def credit(self, invoice_id: str, body: Answer) -> Answer:
        """Credit a part of an invoice."""
        return await self._api.call("POST", f"{_invoice(invoice_id)}/credit_notes", body)

    async def void(self, invoice_id: str, reason: str) -> Answer:
        """Credit all that is left of an invoice."""
        return await self._api.call("POST", f"{_invoice(invoice_id)}/void", {"reason": reason})

    async def list_line_events(self, invoice_id: str, line: int, limit: int) -> list[Answer]:
        """The usage events that a line was added up from, at most `limit`."""
        path = f"{_invoice(invoice_id)}/lines/{line}/events"
        return await self._api.list_pages(path, {}, limit)

    async def trace(self, hold_id: str, customer_id: str | None) -> Answer:
        """From a hold to ledger, report and invoice line."""
        query = {} if customer_id is None else {"customer_id": customer_id}
        path = f"/api/v1/trace/{quote(hold_id, safe='')}"
        return await self._api.call("GET", path, query=query)


def _invoice(invoice_id: str) -> str:
    return f"/api/v1/invoices/{quote(invoice_id, safe='')}"


def _customer(customer_id: str) -> str:
    return f"/api/v1/customers/{quote(customer_id, safe='')}"

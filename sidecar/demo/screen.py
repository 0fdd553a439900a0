"""What the demo shows in the terminal."""

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from sidecar.app import Application
from sidecar.demo.billing import Billing
from sidecar.demo.gateway import Envoy
from sidecar.demo.paying import Paid
from sidecar.demo.story import PATH, Answer, Chapter
from sidecar.domain.money import format_amount
from sidecar.outbound.admin_api import AdminApi

SHOWN_MAX = 20
"""More decisions of one chapter are counted rather than shown."""


class Screen:
    """Prints the story as it happens; says nothing on standard output when quiet."""

    def __init__(self, *, quiet: bool) -> None:
        """Quiet sends everything to standard error instead."""
        self._console = Console(stderr=quiet, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """One line."""
        self._console.print(text)

    def started(self, application: Application, envoy: Envoy) -> None:
        """What runs, and where."""
        self.say(
            f"Envoy {envoy.version} listens on {envoy.url}; Sidecar checks on "
            f"{application.grpc_fast_address}, its admin API is http://{application.admin_address}\n"
        )

    async def show(self, story: AsyncIterator[Chapter | Answer], admin: AdminApi) -> None:
        """Chapters and decisions as they come, and the balance that each chapter left."""
        chapter: Chapter | None = None
        counts: Counter[str] = Counter()
        async for event in story:
            if isinstance(event, Chapter):
                await self._end_chapter(chapter, counts, admin)
                chapter, counts = event, Counter()
                self.say(f"[bold]{chapter.title}[/bold]")
                continue
            mark = f"{_mark(event.status)} {event.code or event.note or 'ok'}"
            counts[mark] += 1
            if counts.total() <= SHOWN_MAX:
                self._console.print(f"  {mark}", end="")
        await self._end_chapter(chapter, counts, admin)

    async def _end_chapter(
        self, chapter: Chapter | None, counts: Counter[str], admin: AdminApi
    ) -> None:
        if chapter is None:
            return
        self.say("" if counts.total() <= SHOWN_MAX else " ...")
        if counts.total() > SHOWN_MAX:
            self.say("  in all " + ", ".join(f"{n} x {mark}" for mark, n in sorted(counts.items())))
        if chapter.customer:
            balance = await admin.read_balance(chapter.customer)
            self.say(
                f"  [dim]{chapter.customer}: granted {balance['granted']}, used "
                f"{balance['used']}, held {balance['held']}, available {balance['available']} "
                f"{balance['currency']}[/dim]"
            )
        self.say("")

    def billing(self, billing: Billing) -> None:
        """The postpaid customer's invoice, ours and Stripe's, and the way there and back."""
        table = Table(title="cus_postpaid's invoice, in cents", title_justify="left")
        for name in ("meter", "quantity", "ours (ledger)", "Stripe's preview"):
            table.add_column(name, justify="left" if name == "meter" else "right")
        for meter in sorted(billing.ours.keys() | billing.stripe.keys()):
            quantity, minor = billing.ours.get(meter, (0, 0))
            table.add_row(
                meter, f"{quantity:,}", str(minor), str(billing.stripe.get(meter, (0, 0))[1])
            )
        table.add_row("total", "", str(billing.total_minor), str(billing.stripe_total_minor))
        self._console.print(table)
        self.say(f"\none request, traced: hold {billing.hold_id}")
        for line in billing.traced:
            self.say(
                f"  {line['kind']} {line['meter']} {line['quantity']} -> ledger "
                f"{line['transaction_id']}\n"
                f"    -> report {line['report_identifier']} ({line['report_state']})\n"
                f"    -> invoice {line['invoice_id']} line {line['line_number']} "
                f"({line['invoice_state']})"
            )
        self.say(f"  and back: {billing.back} requests made that line, this one among them\n")

    def paid(self, paid: Paid) -> None:
        """What Stripe was paid, and what its webhooks made of that here."""
        self.say(
            f"a month later: Stripe charges {paid.total_minor} cents by invoice {paid.invoice_id}; "
            f"its webhook says {paid.state}\n"
            f"  the ledger: {format_amount(paid.taken_nano)} taken by Stripe, cus_postpaid owes "
            f"{format_amount(paid.owed_nano)}\n"
            f"cus_overdue, whose unpaid invoice made it delinquent, pays: {paid.standing}\n"
        )

    def summary(
        self,
        numbers: Mapping[str, Any],
        problems: Sequence[str],
        application: Application,
        envoy: Envoy,
        keys: Mapping[str, str],
        *,
        keep: bool,
    ) -> None:
        """All numbers side by side, whether they agree, and what to try next."""
        self._console.print(_customers_table(numbers))
        requests, holds, stripe = numbers["requests"], numbers["holds"], numbers["stripe"]
        denied = ", ".join(f"{count} {code}" for code, count in requests["denied"].items())
        self.say(
            f"\nrequests  {requests['total']}: {requests['allowed']} allowed; {denied}\n"
            f"holds     {holds['placed']} placed, {holds['captured']} captured, "
            f"{holds['released']} released, {holds['expired']} expired, {holds['open']} open\n"
            f"tokens    {numbers['tokens']['input']} in, {numbers['tokens']['output']} out, in "
            f"{numbers['usage_events']} usage events\n"
            f"Stripe    {stripe['meter_events']} meter events: "
            + ", ".join(f"{name} {value}" for name, value in stripe["value"].items())
            + f"\noverspend {numbers['overspend_nano']} nano\n"
        )
        if problems:
            self.say("[bold red]The numbers do not agree:[/bold red]")
            for problem in problems:
                self.say(f"  {problem}")
            return
        self.say(
            "[bold green]Redis, ledger and Stripe agree to the nano; overspend is 0.[/bold green]"
        )
        self._next_steps(application, envoy, keys, keep=keep)

    def _next_steps(
        self, application: Application, envoy: Envoy, keys: Mapping[str, str], *, keep: bool
    ) -> None:
        if not keep:
            self.say(
                "\nNext: `make serve` runs Sidecar for good, `sidecar envoy config --upstream URL` "
                "prints the Envoy\nconfiguration for your own upstream, and config/policy holds "
                "the rules and prices to edit."
            )
            return
        token = application.secrets.admin_token_file
        self.say(
            "\nTry next, in another terminal (Ctrl-C here ends everything):\n\n"
            f"  curl -i {envoy.url}{PATH} -H 'content-type: application/json' \\\n"
            f"    -H 'authorization: Bearer {keys['cus_postpaid']}' \\\n"
            '    -d \'{"model": "gpt-4o-mini", "max_tokens": 40, "messages": []}\'\n'
            f"  curl -s http://{application.admin_address}"
            "/api/v1/customers/cus_postpaid/balance \\\n"
            f'    -H "authorization: Bearer $(cat {token})"\n'
            f"  curl -s http://{application.http_address}/metrics | grep ^sidecar_checks\n"
        )


def _customers_table(numbers: Mapping[str, Any]) -> Table:
    table = Table(title="nano-USD", title_justify="left")
    for name in ("customer", "granted", "used", "available (Redis)", "available (ledger)"):
        table.add_column(name, justify="left" if name == "customer" else "right")
    for customer_id, one in numbers["customers"].items():
        table.add_row(
            customer_id,
            f"{one['granted_nano']:,}",
            f"{one['used_nano']:,}",
            f"{one['available_nano_redis']:,}",
            f"{one['available_nano_ledger']:,}",
        )
    return table


def _mark(status: int) -> str:
    colour = "green" if status < 400 else "red"  # noqa: PLR2004  The first error status.
    return f"[{colour}]{status}[/{colour}]"

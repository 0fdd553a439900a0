"""Customers whose invoices a provider collects, where all others come to Stripe by themselves."""

from fixtures.http_edges import FixedPolicies, make_policy
from fixtures.stripe_reports import API_KEY, RealClock, UnboundedReads, add_customers, settle

from sidecar.outbound.postgres.payers import PostgresPayers
from sidecar.outbound.postgres.provider_customers import PostgresProviderCustomers
from sidecar.outbound.stripe.client import StripeConnection
from sidecar.outbound.stripe.customers import BY_ID, StripeAccounts
from sidecar.services.onboarding import Onboarding
from sidecar.services.provider_ports import Payer
from sidecar.standins.stripe import StripeStandin


async def test_whose_invoices_a_provider_collects_gets_no_account_that_meters(postgres_pool):
    """It would end the collecting: Stripe would rate the same usage again."""
    standin = StripeStandin()
    await add_customers(postgres_pool, "abc")
    await postgres_pool.execute("UPDATE customers SET stripe_customer_id = NULL")
    payers = PostgresPayers(postgres_pool)
    for name, collect in (("cus_b", True), ("cus_c", False)):
        payer = Payer(customer_id=name, provider="paystack", email="a@example.com", collect=collect)
        await payers.put(payer, keep_authorization=False)
    async with standin.serving() as url:
        connection = StripeConnection(API_KEY, base_url=url)
        onboarding = Onboarding(
            PostgresProviderCustomers(postgres_pool),
            StripeAccounts(connection, UnboundedReads(), field=BY_ID, pages_max=1),
            FixedPolicies(make_policy()),
            RealClock(),
            creates=True,
            subscribes=False,
        )
        await onboarding.run_once()
        await connection.close()
    mapped = await postgres_pool.fetch(
        "SELECT customer_id FROM customers WHERE stripe_customer_id IS NOT NULL ORDER BY 1"
    )
    assert [row["customer_id"] for row in mapped] == ["cus_a", "cus_c"]
    await settle(postgres_pool, 1, 42, customer="b", accounts_come=True)
    assert await postgres_pool.fetchval("SELECT count(*) FROM report_windows") == 0

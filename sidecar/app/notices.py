"""The parts that tell notices: channels, routes, sources, and what of them works by itself."""

import secrets
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from sidecar import telemetry
from sidecar.app.keys import read_secret
from sidecar.app.workers import Run
from sidecar.domain.errors import ConfigError
from sidecar.domain.notices import Channel, NoticeKind
from sidecar.outbound.notify.email import EmailChannel, check_sender
from sidecar.outbound.notify.samples import sample_notices
from sidecar.outbound.notify.slack import SlackChannel
from sidecar.outbound.notify.smtp_url import parse_smtp_url
from sidecar.outbound.notify.templates import NoticeTemplates, TemplateProblem
from sidecar.outbound.notify.webhook import WebhookChannel
from sidecar.outbound.postgres.notice_sources import PostgresNoticeSources
from sidecar.outbound.postgres.notices import PostgresNotices
from sidecar.outbound.postgres.pool import Pool
from sidecar.services.notice_ports import Delivery, NoticeChannel, SendOutcome, Target
from sidecar.services.notice_routes import operator_target
from sidecar.services.notice_sources import NoticeWatch
from sidecar.services.noticing import NoticeList, NoticeRouter, make_senders
from sidecar.services.ports import Clock
from sidecar.settings import Role, Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeParts:
    """What others put notices into, the use cases, and the background work by name."""

    record: PostgresNotices
    list: NoticeList
    workers: dict[str, Run] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempted:
    """What came of one try of a channel; `to` is an address, or empty."""

    channel: Channel
    to: str
    outcome: SendOutcome


def make_notices(
    settings: Settings, stack: AsyncExitStack, *, pool: Pool, clock: Clock, owner: str
) -> NoticeParts:
    """
    Make the parts; channels, and with them their secrets, only where settlement's work is done.

    Raises:
        ConfigError: A channel's settings cannot be used.
    """
    record = PostgresNotices(pool)
    parts = NoticeParts(record=record, list=NoticeList(record))
    if not settings.has(Role.SETTLEMENT):
        return parts
    notify = settings.notify
    templates = NoticeTemplates(notify.name, notify.templates_dir)
    ways = make_ways(settings, stack, templates=templates, clock=clock)
    routes = notify.routes(ways)
    router = NoticeRouter(
        record=record,
        routes=routes,
        retention_days=notify.retention_days,
        poll_seconds=notify.poll_seconds,
    )
    watch = NoticeWatch(
        PostgresNoticeSources(pool),
        owner=owner,
        limits=notify.credit_limits(),
        interval_seconds=notify.look_seconds,
    )
    parts.workers["notices"] = watch.run
    parts.workers["notice_routing"] = router.run
    senders = make_senders(
        ways, record=record, routes=routes, owner=owner, limits=notify.send_limits()
    )
    for channel, sender in senders.items():
        parts.workers[f"notice_{channel.value}"] = sender.run
    for problem in templates.problems(sample_notices(clock.now())):
        telemetry.get_logger().error(
            "template_failed", place=problem.place, problem=problem.problem
        )
    return parts


def make_ways(
    settings: Settings, stack: AsyncExitStack, *, templates: NoticeTemplates, clock: Clock
) -> dict[Channel, NoticeChannel]:
    """
    The channels that are set up; they are closed with the stack.

    Raises:
        ConfigError: A channel's settings cannot be used.
    """
    notify = settings.notify
    ways: dict[Channel, NoticeChannel] = {}
    if settings.smtp_url:
        password_file = notify.email.password_file
        ways[Channel.EMAIL] = EmailChannel(
            parse_smtp_url(
                settings.smtp_url, password=read_secret(password_file) if password_file else ""
            ),
            check_sender(notify.email.sender),
            name=notify.name,
            templates=templates,
            clock=clock,
            timeout_seconds=notify.email.timeout_seconds,
        )
    elif notify.email.sender is not None:
        raise ConfigError("notify.email.from needs smtp_url: where mail goes")
    if notify.webhook.url:
        if notify.webhook.secret_file is None:
            raise ConfigError("notify.webhook.url needs secret_file: the requests are signed")
        ways[Channel.WEBHOOK] = WebhookChannel(
            notify.webhook.url,
            read_secret(notify.webhook.secret_file),
            clock=clock,
            amounts=notify.webhook.amounts,
            timeout_seconds=notify.webhook.timeout_seconds,
            concurrency_max=notify.concurrency_max,
        )
    if notify.slack.url_file is not None:
        ways[Channel.SLACK] = SlackChannel(
            read_secret(notify.slack.url_file),
            templates,
            timeout_seconds=notify.slack.timeout_seconds,
            concurrency_max=notify.concurrency_max,
        )
    for way in ways.values():
        stack.push_async_callback(way.close)
    return ways


async def send_tests(
    settings: Settings, clock: Clock, *, channel: Channel | None, kind: NoticeKind, to: str | None
) -> tuple[Sequence[Attempted], Sequence[TemplateProblem]]:
    """
    Send a notice that never happened, once each, past the record.

    Args:
        settings: As they were read.
        clock: Whose time messages bear.
        channel: This one alone.
        kind: Which sample is told.
        to: Instead of the operators' addresses.

    Returns:
        What came of each, and what is wrong with templates.

    Raises:
        ConfigError: A channel's settings cannot be used, or there is nobody to tell.
    """
    templates = NoticeTemplates(settings.notify.name, settings.notify.templates_dir)
    samples = sample_notices(clock.now())
    async with AsyncExitStack() as stack:
        ways = make_ways(settings, stack, templates=templates, clock=clock)
        chosen = {name: way for name, way in ways.items() if channel in (None, name)}
        if not chosen:
            wanted = "no channel" if channel is None else f"no channel {channel.value!r}"
            raise ConfigError(f"{wanted} is set up: see smtp_url and notify in the settings")
        addresses = settings.notify.operators if to is None else (to,)
        results = []
        for name, way in chosen.items():
            if name is Channel.EMAIL and not addresses:
                raise ConfigError("notify.operators names nobody; use --to ADDRESS")
            for address in addresses if name is Channel.EMAIL else ("",):
                delivery = Delivery(
                    notice_id=f"ntc_{secrets.token_hex(16)}",
                    notice=samples[kind],
                    to=Target(channel=name, target=operator_target(address) if address else ""),
                    attempts=1,
                )
                outcome = await way.send(delivery, address)
                results.append(Attempted(channel=name, to=address, outcome=outcome))
    return results, templates.problems(samples)

"""What `doctor` looks at beside stores: who is told of notices, and which plans are named."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from sidecar.app.inbox import check_plans
from sidecar.app.notices import make_ways
from sidecar.app.parts import SystemClock
from sidecar.domain.errors import ConfigError
from sidecar.domain.notices import Channel
from sidecar.domain.policy import Policy
from sidecar.outbound.notify.email import EmailChannel
from sidecar.outbound.notify.samples import sample_notices
from sidecar.outbound.notify.templates import NoticeTemplates
from sidecar.settings import Settings

_SHOWN_MAX = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """One thing that was looked at: whether it is well, and what was found or what mends it."""

    what: str
    ok: bool
    detail: str


async def look_at_notices(settings: Settings) -> Sequence[Looked]:
    """
    The channels that are set up, the mail server asked, and the templates tried.

    Nothing is sent: the mail server is connected to and logged in at, addresses of webhooks and
    Slack and their secrets are read.
    """
    notify, clock = settings.notify, SystemClock()
    templates = NoticeTemplates(notify.name, notify.templates_dir)
    found = []
    async with AsyncExitStack() as stack:
        try:
            ways = make_ways(settings, stack, templates=templates, clock=clock)
        except ConfigError as error:
            return [Looked(what="notices", ok=False, detail=str(error))]
        for channel, way in ways.items():
            problem, detail = "", "an address and a secret that can be used; nothing was sent"
            if isinstance(way, EmailChannel):
                problem = await way.probe()
                detail = f"{way.place} takes our mail; nothing was sent"
            found.append(Looked(what=channel.value, ok=not problem, detail=problem or detail))
        if Channel.EMAIL in ways and not notify.operators:
            detail = "notify.operators names nobody: operators are told nothing by email"
            found.append(Looked(what="notices", ok=True, detail=detail))
    bad = templates.problems(sample_notices(clock.now()))
    if bad:
        detail = "; ".join(map(str, bad[:_SHOWN_MAX]))
        found.append(Looked(what="templates", ok=False, detail=detail))
    return found


def look_at_plans(settings: Settings, policy: Policy) -> str:
    """
    Which plans subscriptions may give.

    Raises:
        ConfigError: One of them is none of the policy's.
    """
    check_plans(settings, policy)
    named = {*settings.stripe.plans.values(), settings.stripe.ended_plan} - {""}
    return f"subscriptions give {', '.join(sorted(named))}"

"""Rules by the thousand, each for somebody or something else."""

from collections.abc import Callable, Sequence

MIXES: dict[str, Callable[[int, str], str]] = {
    "each on a route of its own": lambda n, _: f"match: {{routes: ['^/ai/model-{n}/']}}",
    # A policy has at most 500 plans with prices.
    "one route, a plan for two": lambda n, route: (
        f"match: {{routes: ['{route}']}}, customers: {{plans: [{plan_of(n)}]}}"
    ),
    "one route, a customer each": lambda n, route: (
        f"match: {{routes: ['{route}']}}, customers: {{ids: [cus_{n}]}}"
    ),
    "one route, a label each": lambda n, route: (
        f"match: {{routes: ['{route}']}}, customers: {{labels: {{group: g{n}}}}}"
    ),
    "rate limits, one route, a label each": lambda n, route: (
        f"match: {{routes: ['{route}']}}, customers: {{labels: {{group: g{n}}}}}"
    ),
}
"""Whom rule n is about, by the route that all share."""


def plan_of(number: int) -> str:
    return f"p{number // 2}"


def rules_text(mixes: Sequence[str], count: int, *, route: str = "^/ai/") -> str:
    """Entries of a policy's `rules`, of each mix in turn; those that speak add their name."""
    return "".join(_rule(mixes[number % len(mixes)], number, route) for number in range(count))


def _rule(mix: str, number: int, route: str) -> str:
    template = "template: headers, warn: {headers: {x-rule: '{{rule.name}}'}}"
    if mix.startswith("rate limits"):
        template = "template: rate-limit, limit: 100, per: 1s, each: key"
    return f"  - {{name: rule-{number}, {template}, {MIXES[mix](number, route)}}}\n"

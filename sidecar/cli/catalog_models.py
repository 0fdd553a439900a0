"""`sidecar catalog import models`."""

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sidecar.cli.common import ConfigFile, settings_from
from sidecar.domain.errors import ConfigError, InvalidInput

if TYPE_CHECKING:
    from sidecar.domain.model_prices import Kind, PriceChange
    from sidecar.domain.pricing import Price
    from sidecar.services.model_pricing import PlanReview

_SIGNS = {
    "new": "+",
    "changed": "~",
    "same": "=",
    "kept": "?",
    "gone": "-",
    "unpriced": "!",
}

ListFile = Annotated[Path, typer.Argument(help="The price list: .yaml, .json or .csv.")]
Plans = Annotated[
    list[str] | None,
    typer.Option("--plan", help="A plan to compare; default: all that price models by name."),
]
Meters = Annotated[
    list[str] | None,
    typer.Option("--meter", help="What counts a kind, as cache_read=METER; repeat it."),
]
Markup = Annotated[
    str | None, typer.Option(help="The list is a provider's cost; add this, such as 20%.")
]
Write = Annotated[
    Path | None, typer.Option(help="Write the changed prices as a policy file; one plan only.")
]


def import_models(
    prices: ListFile,
    plan: Plans = None,
    meter: Meters = None,
    markup: Markup = None,
    at: Annotated[
        str | None, typer.Option(help="Compare as of this instant; default: now.")
    ] = None,
    write: Write = None,
    policy: Annotated[
        Path | None, typer.Option(help="The policy's folder; default: policy_dir.")
    ] = None,
    show_same: Annotated[bool, typer.Option("--all", help="Show unchanged prices too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    config: ConfigFile = None,
) -> None:
    """Compare a dated list of model prices with plans; exit 1 if requests would be refused."""
    from sidecar.outbound.model_price_files import read_model_prices
    from sidecar.outbound.policy_files.loader import load_policy
    from sidecar.services.model_pricing import plans_with_models, review_models

    folder = policy or settings_from(config).policy_dir
    loaded = load_policy(folder)
    names = plan or plans_with_models(loaded.policy)
    if not names:
        raise ConfigError("no plan prices models by name; say which one: --plan NAME")
    if write is not None and len(names) != 1:
        raise ConfigError(f"--write writes one plan; add --plan: {', '.join(names)}")
    rows = read_model_prices(prices)
    reviews: list[PlanReview] = []
    try:
        for name in names:
            reviews += review_models(
                loaded.policy,
                name,
                rows,
                now=_instant(at),
                meters=_meters(meter or []),
                markup=_markup(markup),
            )
    except InvalidInput as error:
        raise ConfigError(str(error)) from error
    if as_json:
        print(json.dumps({"plans": [_content(review) for review in reviews]}, indent=2))
    else:
        for review in reviews:
            _print(review, show_same=show_same)
    if write is not None:
        _write(write, folder, reviews)
    if any(one.change.value == "unpriced" for review in reviews for one in review.changes):
        raise typer.Exit(1)


def _instant(text: str | None) -> datetime:
    from sidecar.app.parts import SystemClock

    if text is None:
        return SystemClock().now()
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"--at: found {text[:40]!r}; expected an instant or a date") from error
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


def _meters(words: Sequence[str]) -> "dict[Kind, str]":
    from sidecar.domain.model_prices import Kind

    found = {}
    for word in words:
        kind, _, name = word.partition("=")
        if kind not in set(Kind) or not name:
            raise ConfigError(
                f"--meter: found {word[:80]!r}; expected one of "
                f"{', '.join(f'{one.value}=METER' for one in Kind)}"
            )
        found[Kind(kind)] = name
    return found


def _markup(text: str | None) -> int | None:
    from sidecar.outbound.policy_files.schema_prices import read_markup

    if text is None:
        return None
    try:
        return read_markup(text)
    except InvalidInput as error:
        raise ConfigError(f"--markup: {error}") from error


def _print(review: "PlanReview", *, show_same: bool) -> None:
    counts: dict[str, int] = {}
    print(f"plan {review.plan}, from {review.effective_at.isoformat()}")
    for one in review.changes:
        counts[one.change.value] = counts.get(one.change.value, 0) + 1
        if one.change.value != "same" or show_same:
            print(f"  {_line(one)}")
    for model in review.foreign:
        print(f"  ? {model}: its row is in another currency than the plan")
    for kind in review.uncounted:
        print(f"  ? {kind.value}: no meter of the plan counts it; name one with --meter")
    total = ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "nothing"
    print(f"  {total}")
    if review.later is not None and review.writes:
        print(f"  ? the plan has later prices from {review.later.isoformat()}; change those too")


def _line(one: "PriceChange") -> str:
    sign = _SIGNS[one.change.value]
    name = f"{sign} {one.model} {one.meter}"
    match one.change.value:
        case "unpriced":
            return f"{name}: no price; requests for it are refused (403 unknown_model)"
        case "gone":
            return f"{name}: {_amount(one.before)}, and not in the list; it stays priced"
        case "kept":
            return f"{name}: priced otherwise than per token; left as it is"
        case "changed":
            return f"{name}: {_amount(one.before)} -> {_amount(one.after)}{_source(one)}"
        case "new" if one.before is not None:
            general = f", by the price for any model {_amount(one.before)} until then"
            return f"{name}: {_amount(one.after)}{general}{_source(one)}"
        case _:
            return f"{name}: {_amount(one.after)}{_source(one)}"


def _source(one: "PriceChange") -> str:
    if one.row is None:
        return ""
    return f" ({one.row.place}{', ' + one.row.source if one.row.source else ''})"


def _amount(price: "Price | None") -> str:
    from sidecar.domain.money import format_amount
    from sidecar.domain.price_models import CostPlus, PerUnit
    from sidecar.outbound.policy_files.price_texts import markup_text

    match price:
        case PerUnit():
            return f"{format_amount(price.amount_nano)} per {price.per}"
        case CostPlus():
            cost = f"{format_amount(price.cost_nano)} per {price.per}"
            return f"{cost} plus {markup_text(price.markup)}"
        case None:
            return "no price"
        case _:
            return str(price.describe()["model"])


def _content(review: "PlanReview") -> dict[str, Any]:
    return {
        "plan": review.plan,
        "effective_at": review.effective_at.isoformat(),
        "meters": {kind.value: name for kind, name in review.meters.items()},
        "foreign_currency": list(review.foreign),
        "uncounted": [kind.value for kind in review.uncounted],
        "changes": [
            {
                "change": one.change.value,
                "model": one.model,
                "meter": one.meter,
                "before": None if one.before is None else one.before.describe(),
                "after": None if one.after is None else one.after.describe(),
                "place": "" if one.row is None else one.row.place,
                "source": "" if one.row is None else one.row.source,
            }
            for one in review.changes
        ],
    }


def _write(target: Path, folder: Path, reviews: Sequence["PlanReview"]) -> None:
    """Write the versions that differ, then load the policy with them, as it would be served."""
    from sidecar.outbound.policy_files.loader import check_with
    from sidecar.outbound.policy_files.price_texts import versions_text

    written = [review for review in reviews if review.writes]
    if not written:
        print("nothing differs; nothing is written", file=sys.stderr)
        return
    versions = [(review.plan, review.effective_at, review.lines) for review in written]
    text = versions_text(versions)
    if target.exists():
        raise ConfigError(f"{target} exists already; name another file, or take it away")
    check_with(folder, target, text.encode())
    try:
        target.write_text(text)
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: {error.strerror}") from error
    print(f"{target}: {len(written)} price versions of plan {written[0].plan}", file=sys.stderr)

"""An explanation for people, as text."""

import json
from collections.abc import Iterator

from sidecar.domain.counters import MONEY
from sidecar.domain.money import AMOUNT_NANO_MAX, format_amount
from sidecar.services.explanation import (
    AnswerTrace,
    ConditionTrace,
    CounterTrace,
    Explanation,
    HoldTrace,
    NumbersTrace,
    RuleTrace,
)


def print_explanation(found: Explanation) -> None:
    """Print it: the request, each rule, the hold, the answer."""
    who = f"customer {found.customer} on plan {found.plan}" if found.customer else "nobody known"
    decision = f"decision {found.decision_id}: " if found.decision_id else ""
    print(f"{decision}{found.method} {found.path}, {who}, at {found.at.isoformat()}")
    print(f"policy {found.policy_version}")
    for note in found.notes:
        print(f"note: {note}")
    if found.numbers is not None:
        for line in _numbers(found.numbers):
            print(line)
    print("rules:")
    for number, rule in enumerate(found.rules, start=1):
        about = f"{rule.template}, {_mode(rule)}, {rule.place}"
        print(f"  {number}. {rule.rule}: {rule.outcome} ({about})")
        for line in _rule(rule):
            print(f"       {line}")
    if found.hold is not None:
        for line in _hold(found.hold):
            print(line)
    for line in _answer(found.answer):
        print(line)
    if found.recorded:
        agrees = "the same" if found.agrees else "not the same"
        print(f"recorded: {found.recorded}; this explanation comes to {agrees}")


def _mode(rule: RuleTrace) -> str:
    if rule.mode in ("enforce", "draft", "shadow"):
        return rule.mode
    return f"enforced for {rule.mode}, {'and' if rule.enforces else 'not'} for this customer"


def _rule(rule: RuleTrace) -> Iterator[str]:
    for mismatch in rule.mismatches:
        wanted = f"; wanted {' or '.join(mismatch.wanted)}" if mismatch.wanted else ""
        yield f"{mismatch.condition}: found {mismatch.found}{wanted}"
    if rule.condition is not None:
        yield from _condition(rule.condition)
    if rule.counter is not None:
        yield _counter(rule.counter)
    if rule.detail:
        yield rule.detail


def _condition(condition: ConditionTrace) -> Iterator[str]:
    answer = {True: "true", False: "false", None: "no answer, which counts as true for a denial"}
    yield f"when {condition.text}: {answer[condition.holds]}"
    for name, value in condition.values.items():
        yield f"  {name} = {value}"
    if condition.failure:
        yield f"  {condition.failure}"


def _counter(counter: CounterTrace) -> str:
    def show(value: int) -> str:
        return format_amount(value) if counter.measure == MONEY else str(value)

    taken = f"{show(counter.before)} before, {show(counter.after)} after"
    fits = "does not fit" if counter.over else "fits"
    ends = "" if counter.ends_at is None else f", window ends {counter.ends_at.isoformat()}"
    soft = "" if counter.hard else ", counted only"
    return (
        f"{counter.name}: {taken}, of {show(counter.limit)}; the request needs "
        f"{show(counter.wanted)}, which {fits}{soft}{ends}"
    )


def _numbers(numbers: NumbersTrace) -> Iterator[str]:
    credit = "endless" if numbers.available_nano >= AMOUNT_NANO_MAX else ""
    credit = credit or format_amount(numbers.available_nano)
    overdue = "" if numbers.overdue_nano is None else f", {format_amount(numbers.overdue_nano)} due"
    yield (
        f"numbers ({numbers.source}, as of {numbers.as_of.isoformat()}): credit {credit}, "
        f"standing {numbers.standing}{overdue}"
    )
    for what, age in numbers.ages.items():
        yield f"  {what}: {age}"


def _hold(hold: HoldTrace) -> Iterator[str]:
    word = "the check holds" if hold.placed else "nothing stays held; asked for is"
    amount = f"{format_amount(hold.amount_nano)} {hold.currency}"
    credit = "has to fit into credit" if hold.credit_required else "credit is not asked for"
    if hold.invoices_rest:
        credit = "credit first, an invoice for the rest"
    yield f"hold: {word} {amount} ({credit})"
    if hold.quantities:
        parts = ", ".join(f"{name} {count}" for name, count in hold.quantities.items())
        yield f"  quantities: {parts}"
    yield f"  bound {hold.bound}"
    yield f"  overshoot: {hold.overshoot}"


def _answer(answer: AnswerTrace) -> Iterator[str]:
    if answer.allow:
        yield "answer: allow"
    else:
        yield f"answer: deny {answer.status} by {answer.rule} ({answer.code})"
    for name, value in answer.headers.items():
        yield f"  {name}: {value}"
    if not answer.allow:
        yield "  (no body)" if answer.empty_body else f"  {json.dumps(answer.body)}"
    if answer.shadow:
        yield f"  would deny if they enforced: {', '.join(answer.shadow)}"
    if answer.over:
        yield f"  beyond limits that only count: {', '.join(answer.over)}"

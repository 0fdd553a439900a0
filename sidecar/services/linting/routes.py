"""Patterns that match nothing, or more than was meant."""

import re
from collections.abc import Iterator

from sidecar.domain.errors import InvalidInput
from sidecar.domain.matching import Match
from sidecar.domain.policy import Policy
from sidecar.domain.requests import normalise_path
from sidecar.services.linting.containment import covers_match
from sidecar.services.linting.findings import Finding, Linted, Severity
from sidecar.services.linting.patterns import compiled, sample_path, shape_of

_ESCAPE = re.compile("%..")
_UNESCAPED_DOT = re.compile(r"[A-Za-z0-9-]\.[A-Za-z0-9-]")


def lint_routes(linted: Linted) -> Iterator[Finding]:
    """Everything that can be said of the policy's patterns."""
    policy, places = linted.policy, linted.places.patterns
    priced = _priced(policy)
    for pattern in policy.routes.patterns:
        place = places.get(pattern, "")
        why = never_matches(pattern)
        if why:
            yield _finding("pattern-never-matches", Severity.ERROR, place, pattern, *why)
            continue
        if _optional_end(pattern):
            yield _finding(
                "trailing-question-mark",
                Severity.WARNING,
                place,
                pattern,
                "ends with `?`, which makes its last character optional; a query is cut before "
                "rules match",
                "end it with $ instead, or escape what was meant",
            )
        yield from _too_wide(pattern, place, priced)
    yield from _free(linted)
    yield from _hosts(policy)
    yield from _traffic(linted)


def never_matches(pattern: str) -> tuple[str, str] | None:
    """Why no normalised path has the pattern, and what mends it; None if one may."""
    shape = shape_of(pattern)
    for run in shape.runs:
        if "?" in run or "#" in run:
            return "names a query, which is cut before rules match", "use `query:` of the match"
        if "//" in run:
            return "has `//`, which normalisation merges into one slash", "write one slash"
        if "\\" in run or "/./" in run or "/../" in run:
            return "has a part that normalisation takes away", "write the normalised path"
        for escape in _ESCAPE.findall(run):
            try:
                normal = normalise_path(f"/{escape}")[1:]
            except InvalidInput:
                return f"has {escape}, and paths with it are refused", "leave it out"
            if normal != escape:
                return f"has {escape}, which is {normal!r} in a normalised path", f"write {normal}"
    if shape.begins and shape.prefix and not shape.prefix.startswith("/"):
        return "begins with no slash, as every path does", f"write ^/{pattern.lstrip('^')}"
    return None


def _optional_end(pattern: str) -> bool:
    return re.search(r"[A-Za-z0-9]\?\$?$", pattern) is not None


def _too_wide(pattern: str, place: str, priced: list[str]) -> Iterator[Finding]:
    """Priced routes that it matches inside a word, or not from the path's start on."""
    shape = shape_of(pattern)
    if not shape.literal or not shape.runs or shape.ends:
        return
    text = shape.runs[0]
    for other in priced:
        path = sample_path(other)
        if other == pattern or path is None:
            continue
        found = compiled(pattern).search(path)
        if found is None:
            continue
        after = path[found.end() :][:1]
        cut = text[-1:].isalnum() and (after.isalnum() or after in ("-", "_"))
        if found.start() > 0 or cut:
            yield _finding(
                "unanchored-route",
                Severity.WARNING,
                place,
                pattern,
                f"also matches {path!r} of the priced route {other!r}",
                "begin it with ^, and end it with $ or a slash",
            )
            return


def _priced(policy: Policy) -> list[str]:
    """The patterns of routes that some plan prices."""
    priced = {name for card in policy.all_cards for name in card.priced_meters()}
    numbers = {
        number
        for rule in policy.meters
        if rule.meter.name in priced
        for match in rule.match
        for number in match.routes
    }
    return [policy.routes.patterns[number] for number in sorted(numbers)]


def _free(linted: Linted) -> Iterator[Finding]:
    """Priced routes that are free: what they use is neither held nor billed."""
    policy = linted.policy
    priced = {name for card in policy.all_cards for name in card.priced_meters()}
    for rule in policy.meters:
        if rule.meter.name not in priced:
            continue
        for match in rule.match:
            number = _covering_free(policy, match)
            if number is None:
                continue
            places = linted.places.free
            yield Finding(
                code="free-priced-route",
                severity=Severity.WARNING,
                place=places[number] if number < len(places) else "",
                message=(
                    f"each request that meter {rule.meter.name!r} counts is free, so it is "
                    "neither held nor billed, although a plan prices it"
                ),
                mend="narrow the free route, or take the price out",
            )
            return


def _covering_free(policy: Policy, match: Match) -> int | None:
    for number, free in enumerate(policy.free):
        if covers_match(free, match, policy.routes.patterns):
            return number
    return None


def _hosts(policy: Policy) -> Iterator[Finding]:
    for rule in policy.rules:
        for pattern in (host.pattern for match in rule.match for host in match.hosts):
            what, message, mend = "", "", ""
            shape = shape_of(pattern)
            if any(run != run.lower() for run in shape.runs):
                what, mend = "pattern-never-matches", "write it in lower case"
                message = "has capitals, and hosts are compared in lower case"
            elif any(":" in run and "[" not in run for run in shape.runs):
                what, mend = "pattern-never-matches", "leave the port out"
                message = "names a port, which is cut before rules match"
            elif _UNESCAPED_DOT.search(pattern):
                what, mend = "host-dot", r"write \. for each dot"
                message = "has a dot that stands for any character"
            if what:
                severity = Severity.WARNING if what == "host-dot" else Severity.ERROR
                yield _finding(what, severity, rule.place, pattern, message, mend, rule=rule.name)


def _traffic(linted: Linted) -> Iterator[Finding]:
    """Patterns that no recorded request has."""
    if linted.traffic is None:
        return
    policy = linted.policy
    seen: set[int] = set()
    requests = 0
    for request in linted.traffic:
        requests += request.count
        try:
            seen |= policy.routes.match(normalise_path(request.path))
        except InvalidInput:
            continue  # It was refused before any rule.
    if not requests:
        return
    for number, pattern in enumerate(policy.routes.patterns):
        if number not in seen:
            yield _finding(
                "route-without-traffic",
                Severity.WARNING,
                linted.places.patterns.get(pattern, ""),
                pattern,
                f"matches none of {requests} recorded requests",
                "compare it with the paths that clients use; the path is normalised first",
            )


def _finding(
    code: str, severity: Severity, place: str, pattern: str, *words: str, rule: str = ""
) -> Finding:
    message, mend = words
    return Finding(
        code=code,
        severity=severity,
        place=place,
        rule=rule,
        message=f"pattern {pattern!r} {message}",
        mend=mend,
    )

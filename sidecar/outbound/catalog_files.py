"""An imported catalog as policy files: meters, plans, and as comments what was not written."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from sidecar.domain.catalog_import import Finding, ImportedCatalog
from sidecar.domain.errors import ConfigError
from sidecar.outbound.policy_files.schema import policy_schema_text

METERS_FILE, PLANS_FILE = "catalog-10-meters.yaml", "catalog-20-plans.yaml"
SCHEMA_FILE = "policy.schema.json"
_MODELINE = f"# yaml-language-server: $schema={SCHEMA_FILE}\n#\n"
_METERS = """\
# Meters of imported prices. A catalog knows their names alone: say of each which requests it
# counts (`match`) and how much of them (`value`).
"""
_PLANS = """\
# Plans imported from {origin}. A plan whose product or price exists at Stripe names it under
# `stripe`, so that `sidecar catalog plan` takes it up as it is.
"""
_WIDTH = 100
_COMMENT_CHARS_MAX = 400


class _Dumper(yaml.CSafeDumper):
    """Writes no anchors: the reader of our files refuses them."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  PyYAML's form.
        return True


def file_texts(imported: ImportedCatalog, origin: str) -> dict[str, str]:
    """The files by name; the same input gives the same text."""
    return {
        METERS_FILE: _MODELINE
        + _METERS
        + "".join(_list("meters", imported.meters))
        + "".join(_comments("Assumed", (one for one in imported.findings if not one.lost))),
        PLANS_FILE: _MODELINE
        + _PLANS.format(origin=_comment(origin))
        + "".join(_list("plans", [plan.data for plan in imported.plans]))
        + "".join(_comments("Not imported", imported.lost)),
    }


def write_catalog(imported: ImportedCatalog, origin: str, directory: Path) -> list[Path]:
    """
    Write the files into a folder; those of an earlier import are replaced.

    Raises:
        ConfigError: If the folder cannot be written.
    """
    texts = {**file_texts(imported, origin), SCHEMA_FILE: policy_schema_text()}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (directory / name).write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise ConfigError(f"{directory}: cannot be written: {error.strerror}") from error
    return [directory / name for name in texts]


def _list(key: str, items: Iterable[Mapping[str, object]]) -> Iterator[str]:
    entries = [dict(item) for item in items]
    yield f"{key}:\n" if entries else f"{key}: []\n"
    for entry in entries:
        text = yaml.dump([entry], Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_WIDTH)
        yield "".join(f"  {line}" for line in text.splitlines(keepends=True))


def _comments(title: str, findings: Iterable[Finding]) -> Iterator[str]:
    for number, finding in enumerate(findings):
        if number == 0:
            yield f"\n# {title}:\n"
        yield f"# - {_comment(str(finding))}\n"


def _comment(text: str) -> str:
    """A foreign text on one line."""
    return "".join(char if char.isprintable() else " " for char in text)[:_COMMENT_CHARS_MAX]

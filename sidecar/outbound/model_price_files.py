"""Price lists of models as files: YAML, JSON or CSV to rows, each mistake with its line."""

import csv
import io
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import yaml

from sidecar.domain.errors import ConfigError, InvalidInput
from sidecar.domain.model_prices import Kind, ModelRow
from sidecar.domain.money import parse_amount, parse_currency
from sidecar.domain.nearest import unknown
from sidecar.outbound.policy_files.places import Place, Problems
from sidecar.outbound.policy_files.reading import TAG_NULL, Reader, describe, pairs
from sidecar.outbound.policy_files.yaml_marks import FILE_BYTES_MAX, compose_document, place_of

ROWS_MAX = 50_000
PER_DEFAULT = 1_000_000
PER_MAX = 10**12
_HEAD = ("effective", "currency", "per", "source")
_ROW = ("model", *_HEAD, *(kind.value for kind in Kind))
_FORM = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})(T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?"
    r"(Z|[+-][0-9]{2}:[0-9]{2}))?",
    re.ASCII,
)
_MODEL = re.compile(r"[^\x00-\x1f\x7f]{1,200}")


@dataclass(frozen=True, slots=True)
class _Cell:
    text: str
    place: Place


@dataclass(slots=True)
class _Rows:
    """Rows as they are read, and what is wrong with them."""

    problems: Problems
    found: list[ModelRow] = field(default_factory=list)
    seen: dict[tuple[str, datetime], Place] = field(default_factory=dict)

    def add(self, cells: Mapping[str, _Cell], head: Mapping[str, _Cell], place: Place) -> None:
        """One row; what is wrong with it is noted, and the row left out."""
        if len(self.found) == ROWS_MAX:
            self.problems.add(place, f"the list has more than {ROWS_MAX} rows")
        if len(self.found) >= ROWS_MAX:
            return
        before = len(self.problems)
        known = {**head, **cells}
        model = cells.get("model")
        if model is None or _MODEL.fullmatch(model.text) is None:
            self.problems.add(place, "the row has no `model`; it is required")
        effective = self._effective(known.get("effective"), place)
        currency = self._currency(known.get("currency"))
        per = self._per(known.get("per"))
        prices = {
            kind: amount
            for kind in Kind
            if (cell := cells.get(kind.value)) is not None
            and (amount := self._amount(kind, cell)) is not None
        }
        if not any(kind.value in cells for kind in Kind):
            names = ", ".join(kind.value for kind in Kind)
            self.problems.add(place, f"the row has no price; one of {names} is required")
        if len(self.problems) > before or model is None or effective is None:
            return
        first = self.seen.setdefault((model.text, effective), place)
        if first != place:
            self.problems.add(
                place,
                f"model {model.text[:80]!r} has a second row from {effective.isoformat()}; "
                f"the first is at {first.spot}",
            )
            return
        source = known.get("source")
        self.found.append(
            ModelRow(
                model=model.text,
                effective_at=effective,
                currency=currency,
                per=per,
                prices=prices,
                source=source.text[:200] if source is not None else "",
                place=place.spot,
            )
        )

    def _effective(self, cell: _Cell | None, place: Place) -> datetime | None:
        if cell is None:
            self.problems.add(place, "the row has no `effective`, nor has the list; write a date")
            return None
        match = _FORM.fullmatch(cell.text)
        instant = None
        if match is not None:
            with suppress(ValueError):  # No calendar has it.
                instant = datetime.fromisoformat(cell.text)
        if match is None or instant is None:
            self.problems.add(
                cell.place,
                f"found {cell.text[:40]!r}; expected a date such as 2026-12-01, or an instant with "
                "its zone",
            )
            return None
        return instant.astimezone(UTC) if match[2] else instant.replace(tzinfo=UTC)

    def _currency(self, cell: _Cell | None) -> str:
        if cell is None:
            return "USD"
        try:
            return parse_currency(cell.text)
        except InvalidInput as error:
            self.problems.add(cell.place, str(error))
            return ""

    def _per(self, cell: _Cell | None) -> int:
        if cell is None:
            return PER_DEFAULT
        if re.fullmatch(r"[1-9][0-9]{0,12}", cell.text, re.ASCII) and int(cell.text) <= PER_MAX:
            return int(cell.text)
        self.problems.add(
            cell.place, f"found {cell.text[:40]!r}; expected how many tokens a price is for"
        )
        return PER_DEFAULT

    def _amount(self, kind: Kind, cell: _Cell) -> int | None:
        try:
            amount = parse_amount(cell.text, field=kind.value)
        except InvalidInput as error:
            self.problems.add(cell.place, str(error))
            return None
        if amount < 0:
            self.problems.add(cell.place, f"{kind.value} {cell.text[:40]!r} is negative")
            return None
        return amount


def read_model_prices(path: Path) -> list[ModelRow]:
    """
    Read a price list, by its name's ending: .yaml, .yml, .json or .csv.

    Numbers are taken as they are written, so no price is ever a binary fraction.

    Raises:
        ConfigError: If it cannot be read, or naming each mistake with its line.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(f"{path} is larger than {FILE_BYTES_MAX} bytes")
    problems = Problems()
    rows = _Rows(problems)
    match path.suffix.lower():
        case ".yaml" | ".yml" | ".json":
            _read_tree(str(path), data, rows)
        case ".csv":
            _read_table(str(path), data, rows)
        case other:
            raise ConfigError(
                f"{path}: {other or 'no ending'} is no price list; use yaml, json, csv"
            )
    if not rows.found and not len(problems):
        problems.add(Place(str(path), 1, 1), "the list has no rows")
    problems.raise_if_any()
    return rows.found


def _read_tree(file: str, data: bytes, rows: _Rows) -> None:
    root = compose_document(file, data, rows.problems)
    reader = Reader(file=file, problems=rows.problems)
    head: dict[str, _Cell] = {}
    if root is None:
        return
    listed: yaml.Node | None = root
    if isinstance(root, yaml.MappingNode):
        listed = next((value for key, value in root.value if key.value == "models"), None)
        head = _cells(root, reader, ("models", *_HEAD), skip="models")
    if not isinstance(listed, yaml.SequenceNode):
        rows.problems.add(place_of(file, root), "expected a list of rows, or one under `models`")
        return
    for node in listed.value:
        if not isinstance(node, yaml.MappingNode):
            reader.refuse(
                node, f"found {describe(node)}; expected a mapping with {', '.join(_ROW)}"
            )
            continue
        before = len(rows.problems)
        cells = _cells(node, reader, _ROW)
        if len(rows.problems) == before:
            rows.add(cells, head, place_of(file, node))


def _cells(
    node: yaml.MappingNode, reader: Reader, allowed: tuple[str, ...], *, skip: str = ""
) -> dict[str, _Cell]:
    """Scalars by key, as they are written; null and "" say nothing."""
    found = {}
    for key, key_node, value in pairs(node, reader):
        if key == skip:
            continue
        if key not in allowed:
            reader.refuse(key_node, unknown("key", key, allowed))
        elif not isinstance(value, yaml.ScalarNode):
            reader.refuse(value, f"found {describe(value)}; expected a text or a number")
        elif value.tag != TAG_NULL and value.value != "":
            found[key] = _Cell(str(value.value), reader.place(value))
    return found


def _read_table(file: str, data: bytes, rows: _Rows) -> None:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        rows.problems.add(Place(file, 1, 1), "the file is not UTF-8 text; save it as UTF-8")
        return
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        names = [name.strip().lower() for name in next(reader, [])]
        for column, name in enumerate(names, 1):
            if name not in _ROW:
                rows.problems.add(Place(file, 1, column), unknown("column", name, _ROW))
        if len(set(names)) < len(names):
            rows.problems.add(Place(file, 1, 1), "a column stands twice")
        if len(rows.problems):
            return
        line = reader.line_num + 1
        for values in reader:
            place, line = Place(file, line, 1), reader.line_num + 1
            if not values:
                continue
            if len(values) != len(names):
                rows.problems.add(
                    place, f"the row has {len(values)} cells; the header has {len(names)}"
                )
                continue
            cells = {
                name: _Cell(value.strip(), Place(file, place.line, column))
                for column, (name, value) in enumerate(zip(names, values, strict=True), 1)
                if value.strip()
            }
            rows.add(cells, {}, place)
    except csv.Error as error:
        rows.problems.add(Place(file, reader.line_num, 1), f"the file is not CSV: {error}")

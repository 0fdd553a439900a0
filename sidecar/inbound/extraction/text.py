"""Foreign text, made fit to store and to show."""

TEXT_BYTES_MAX = 128
_REPLACED = "\ufffd"


def printable(text: str | bytes, bytes_max: int = TEXT_BYTES_MAX) -> str:
    """
    The text with every unprintable character replaced by "?", cut to `bytes_max` of UTF-8.

    So is what a decoder has replaced before. Never raises, and the result always encodes:
    lone surrogates are not printable.
    """
    if len(text) <= bytes_max and text.isascii():
        plain = text if isinstance(text, str) else text.decode("ascii")
        if plain.isprintable():
            return plain  # Nearly every text.
    if isinstance(text, bytes):
        text = text[: 4 * bytes_max].decode("utf-8", "replace")
    text = text[:bytes_max]
    clean = "".join(char if char.isprintable() and char != _REPLACED else "?" for char in text)
    return clean.encode()[:bytes_max].decode("utf-8", "ignore")

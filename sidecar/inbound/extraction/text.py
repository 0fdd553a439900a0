"""Foreign text, made fit to store and to show."""

TEXT_BYTES_MAX = 128


def printable(text: str | bytes, bytes_max: int = TEXT_BYTES_MAX) -> str:
    """
    The text with every unprintable character replaced by "?", cut to `bytes_max` of UTF-8.

    Never raises, and the result always encodes: lone surrogates are not printable.
    """
    if isinstance(text, bytes):
        text = text[: 4 * bytes_max].decode("utf-8", "replace").replace("\ufffd", "?")
    text = text[:bytes_max]
    clean = "".join(char if char.isprintable() else "?" for char in text)
    return clean.encode()[:bytes_max].decode("utf-8", "ignore")

"""How a dictionary's size is asked for: a number, a share of the channels, a preset, or by layer name."""

from __future__ import annotations

from dataclasses import dataclass

from lcnn_compress.errors import SettingsError

# A preset is a dictionary size, as a share of m (the channels of one group), and lookups per position, as a number or as a
# share of the dictionary. LCNN-fast of ResNet-18 has dictionaries of 16/32/64/128, m / 4; "accurate" keeps twice that.
PRESETS: dict[str, tuple[float, int | float]] = {"fast": (0.25, 1), "accurate": (0.5, 0.5)}
# A position looks up this share of the dictionary unless ``lookups`` or a preset says otherwise.
DEFAULT_LOOKUPS = 0.25


@dataclass(frozen=True)
class DictionaryRule:
    """One entry of ``dictionary``: layers matching ``glob`` get ``size`` rows.

    A float is a share of the channels, or of the vectors where they are fewer.
    """

    glob: str
    size: int | float
    explicit: bool  # the size is given for these layers, not for all, so it may exceed the channels

    def rows(self, rank: int) -> int:
        """Return the dictionary size, before any limit, for vectors that span at most ``rank`` dimensions."""
        return self.size if isinstance(self.size, int) else max(1, round(self.size * rank))


def parse_dictionary(text: str) -> tuple[DictionaryRule, ...]:
    """Read ``30``, ``0.25``, ``fast``, ``accurate`` or ``glob=K,glob=K``.

    Raises:
        SettingsError: ``text`` is none of these, or a size is 0, negative or not a whole number.
    """
    text = text.strip()
    if text in PRESETS:
        return (DictionaryRule("*", PRESETS[text][0], False),)
    pairs = [part.partition("=") for part in text.split(",")] if "=" in text else [("*", "", text)]
    return tuple(
        DictionaryRule(glob.strip(), parse_amount("dictionary", value.strip(), "entries", "the channels"), "=" in text)
        for glob, _, value in pairs
    )


def parse_amount(field: str, text: str, unit: str, whole: str) -> int | float:
    """Read a whole number (int) or a share between 0 and 1 (float); ``field`` of a settings class is named if it is refused.

    Raises:
        SettingsError: ``text`` is neither.
    """
    try:
        value: int | float = int(text)
    except ValueError:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
    check_amount(field, text, value, unit, whole)
    return value


def check_amount(field: str, text: str, value: int | float, unit: str, whole: str) -> None:
    if not (value >= 1 if isinstance(value, int) else 0 < value <= 1):
        raise SettingsError(
            f"`{field}` is '{text}'; it must be a whole number of {unit}, at least 1, or a share of {whole} up to 1.0"
        )

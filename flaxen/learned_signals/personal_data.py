"""Personal data in a text by its form: numbers with check digits, addresses, named fields.

What has no form of its own (names, nationalities) is found only behind the words that introduce it;
a head may find more.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Callable

from flaxen.learned_signals.examples import DATA


def _is_card(text: str) -> bool:
    """Whether digits pass Luhn's check."""
    digits = [int(char) for char in text if char.isdigit()]
    doubled = [digit * 2 - 9 * (digit > 4) for digit in digits[-2::-2]]
    return 13 <= len(digits) <= 19 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _is_iban(text: str) -> bool:
    """Whether an IBAN's remainder is 1."""
    compact = re.sub(r"\s", "", text).upper()
    turned = compact[4:] + compact[:4]
    return len(compact) >= 15 and int("".join(str(int(char, 36)) for char in turned)) % 97 == 1


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_phone(text: str) -> bool:
    return 8 <= sum(char.isdigit() for char in text) <= 15


_CHECKS: dict[str, Callable[[str], bool]] = {
    "": bool,
    "card": _is_card,
    "iban": _is_iban,
    "address": _is_address,
    "phone": _is_phone,
}


@functools.cache
def _forms() -> list[tuple[str, re.Pattern[str], Callable[[str], bool]]]:
    """Each type, its form, and what the form's first group must also be."""
    lines = (DATA / "personal_data.tsv").read_text("utf-8").splitlines()[1:]
    rows = [line.split("\t") for line in lines]
    return [(kind, re.compile(form, re.IGNORECASE), _CHECKS[check]) for kind, check, form in rows]


def personal_data(text: str) -> frozenset[str]:
    """The types of personal data that a text has by its form."""
    return frozenset(
        kind
        for kind, form, check in _forms()
        if any(check(match.group(1)) for match in form.finditer(text))
    )

"""Personal data in a text by its form: numbers with check digits, addresses, named fields.

What has no form of its own (names, nationalities) is found only behind the words that introduce it;
a head may find more.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

_FLAGS = re.IGNORECASE


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


_Check = Callable[[str], bool]


def _always(text: str) -> bool:
    return True


# Each with what its first group must also be. Quantifiers are bounded: the time is linear.
_FORMS: tuple[tuple[str, str, _Check], ...] = (
    ("EMAIL_ADDRESS", r"([\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,5})", _always),
    ("US_SSN", r"(?<![\d-])((?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4})(?![\d-])", _always),
    ("CREDIT_CARD", r"(?<!\d)(\d(?:[ -]?\d){12,18})(?!\d)", _is_card),
    ("IBAN_CODE", r"\b([A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30})\b", _is_iban),
    ("IP_ADDRESS", r"(?<![\d.])(\d{1,3}(?:\.\d{1,3}){3})(?![\d.])", _is_address),
    (
        "PHONE_NUMBER",
        r"(?<![\w.])(\+\d{1,3}[ .-]?\(?\d{1,4}\)?(?:[ .-]?\d{2,4}){2,4})(?!\d)",
        _is_phone,
    ),
    ("PHONE_NUMBER", r"(?<![\w.])(\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4})(?![\d-])", _is_phone),
    (
        "STREET_ADDRESS",
        r"\b(\d{1,5} (?:[A-Z][\w'.]{1,20} ){1,3}"
        r"(?:street|st|avenue|ave|road|rd|lane|ln|drive|dr|boulevard|blvd|court|ct)\b)",
        _always,
    ),
    (
        "DATE_TIME",
        r"(?:born(?: on)?|birth(?:day|date)?|dob|生日|出生)[^\d\n]{0,20}"
        r"(\d{1,4}[/.\u5e74-]\d{1,2}[/.\u6708-]\d{1,4})",
        _always,
    ),
    ("AGE", r"\bI(?: am|'m) (\d{1,3}) years? old\b", _always),
    (
        "US_DRIVER_LICENSE",
        r"\bdriver'?s?'? licen[cs]e(?: number| no\.?)?\W{1,4}([A-Z]?\d{6,9})\b",
        _always,
    ),
    ("ZIP_CODE", r"\b(?:zip|postal) ?code\W{0,4}(?:is )?(\d{4,5}(?:-\d{4})?)\b", _always),
    (
        "PERSON",
        r"(?:(?-i:\b(?:[Ff]ull |[Cc]ustomer |[Pp]atient )?[Nn]ame(?: is|:))|姓名[:\uff1a是]"
        r"|氏名[:\uff1aは]"
        r"|\bnombre:|\bnom :?|\b(?:Mr|Mrs|Ms|Dr)\.)\s{0,3}"
        r"((?-i:[A-ZÀ-Þ][\w'-]{1,30})(?: (?-i:[A-ZÀ-Þ][\w'-]{1,30})){0,3}"
        r"|[\u4e00-\u9fff]{2,6})",
        _always,
    ),
    (
        "NRP",
        r"(?:\bnationality|\bcitizenship|\breligion|\bethnicity|\bpolitical affiliation"
        r"|国籍|宗教|民族|政党)"
        r"(?:\s{0,2}[:\uff1a=]\s{0,2}| is | as |是|は|为)"
        r"((?-i:[A-Z])\w{2,20}|[\u3040-\u30ff\u4e00-\u9fff]{2,8})",
        _always,
    ),
)
_COMPILED = tuple((kind, re.compile(form, _FLAGS), check) for kind, form, check in _FORMS)


def personal_data(text: str) -> frozenset[str]:
    """The types of personal data that a text has by its form."""
    return frozenset(
        kind
        for kind, form, check in _COMPILED
        if any(check(match.group(1)) for match in form.finditer(text))
    )

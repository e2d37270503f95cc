"""Whether a chat template's source contains a variable's name. If not, it ignores the variable.

Deliberately does not know: how a template is run.
"""

from __future__ import annotations

import re


def mentions(template: str | None, variable: str) -> bool:
    """Whether the source has the name as a whole word, and not as a field of something else.

    Args:
      template: its source; None is no template.
      variable: its name.
    """
    word = rf"(?<![.\w]){re.escape(variable)}\b"
    return template is not None and re.search(word, template) is not None

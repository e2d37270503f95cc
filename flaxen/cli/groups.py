"""Option groups: a frozen dataclass whose fields are options, declared once.

A command is a function that takes groups. Typer reads a command's options from the parameters of a
function, so it gets a function with one parameter for each field of the groups. Deliberately does
not know any option.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, get_type_hints

_EMPTY = inspect.Parameter.empty


def expand(command: Callable[..., None]) -> Callable[..., None]:
    """Returns the function for typer, which calls the command.

    Args:
      command: a function whose parameters are options or groups. If a group parameter has a default
          instance, that instance has the defaults of its options.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {}
    options: dict[str, inspect.Parameter] = {}
    for parameter in inspect.signature(command).parameters.values():
        hint = hints[parameter.name]
        if is_dataclass(hint):
            groups[parameter.name] = hint
            found = list(_options(hint, parameter.default))
        else:
            found = [_option(parameter.name, hint, parameter.default)]
        for option in found:
            assert option.name not in options, f"{command.__name__} has {option.name} twice"
            options[option.name] = option

    def run(**values: Any) -> None:
        made = {
            name: group(**{field.name: values.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**made, **values)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = inspect.Signature(list(options.values()))  # type: ignore[attr-defined]
    return run


def _options(group: Any, instance: Any) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    for field in fields(group):
        default = _default(field) if instance is _EMPTY else getattr(instance, field.name)
        yield _option(field.name, hints[field.name], default)


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return _EMPTY if field.default is MISSING else field.default


def _option(name: str, hint: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)

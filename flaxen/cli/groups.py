"""Option groups: a frozen dataclass whose fields are options, declared once.

A command is a function that takes groups. Typer reads a command's options from the parameters of a
function, so it gets a function with one parameter for each field of the groups. Deliberately does
not know any option.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, field, fields, is_dataclass
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

T = TypeVar("T")

_EMPTY = inspect.Parameter.empty
_OPTION = "option"  # the key of a field's metadata


def option(default: T, *names: str, **settings: Any) -> T:
    """A field of a group, or an option that is a command's own.

    Args:
      default: the value where nobody gives one; each instance gets a copy of a list.
      names: of the option, if they are not made of the field's.
      settings: the arguments of typer.Option.
    """
    metadata = {_OPTION: typer.Option(*names, **settings)}
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata)  # type: ignore[return-value]
    return field(default=default, metadata=metadata)


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
        elif isinstance(parameter.default, Field):
            found = [_field_option(parameter.name, hint, parameter.default)]
        else:
            found = [_option(parameter.name, hint, parameter.default)]
        for each in found:
            assert each.name not in options, f"{command.__name__} has {each.name} twice"
            options[each.name] = each

    def run(**values: Any) -> None:
        made = {
            name: group(**{each.name: values.pop(each.name) for each in fields(group)})
            for name, group in groups.items()
        }
        command(**made, **values)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = inspect.Signature(list(options.values()))  # type: ignore[attr-defined]
    return run


def _options(group: Any, instance: Any) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    for each in fields(group):
        found = _field_option(each.name, hints[each.name], each)
        own = instance is _EMPTY
        yield found if own else found.replace(default=getattr(instance, each.name))


def _field_option(name: str, hint: Any, of: Field[Any]) -> inspect.Parameter:
    if _OPTION in of.metadata:
        hint = Annotated[hint, of.metadata[_OPTION]]
    return _option(name, hint, _default(of))


def _default(of: Field[Any]) -> Any:
    if of.default_factory is not MISSING:
        return of.default_factory()
    return _EMPTY if of.default is MISSING else of.default


def _option(name: str, hint: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)

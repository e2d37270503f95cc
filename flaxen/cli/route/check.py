"""`flaxen route check`: what is wrong with a configuration, and what it needs."""

from __future__ import annotations

from flaxen.cli.route.asked import FileArgument, load


def check(file: FileArgument) -> None:
    """Check a configuration: all that is wrong, with lines, or what it decides by.

    Exits with 1 if something is wrong.
    """
    from flaxen.router.signals.kinds import KINDS, Cost
    from flaxen.router_config.problems import ConfigError

    try:
        config = load(file)
    except ConfigError as error:
        print(error)
        raise SystemExit(1) from None
    if config.is_migrated:
        print("The file is of an older version, and was read as v0.3.")
    learned = {kind.condition for kind in KINDS if kind.cost is Cost.LEARNED}
    for recipe in config.recipes.values():
        needed = sorted(str(key) for key in recipe.used if key.kind in learned)
        needed += ["the likeness of requests"] if recipe.compares else []
        names = [name for name, to in config.entrypoints.items() if to == recipe.name]
        print(f"recipe {recipe.name}: {len(recipe.rules)} decisions, {len(recipe.used)} signals")
        print(f"  asked for as: {', '.join(names) or 'nothing; give it an entrypoint'}")
        print(f"  signals that need a model: {', '.join(needed) or 'none'}")

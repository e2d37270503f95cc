"""From the structure that an output must have to a grammar, which says which tokens may come next.

`GrammarCompiler` makes them, through llguidance, whose parser and masks are Rust; `states` is what
an engine keeps of each. Deliberately does not know: JAX, how an engine runs steps, HTTP.
"""

from flaxen.structured.compiler import GrammarCompiler

__all__ = ["GrammarCompiler"]

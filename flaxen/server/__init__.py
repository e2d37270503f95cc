"""The OpenAI wire format over an EngineClient. Deliberately does not know JAX or models."""

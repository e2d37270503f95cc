"""The engine, from requests to token events: scheduler, KV cache, compiled step, sampling, loop."""

"""The routes that generate: from a request body to the choices that answer it."""

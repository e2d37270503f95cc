"""GET /openapi.json: the routes that a server has, in OpenAPI's form, for programs.

Bodies are described by the very classes that read them. Deliberately does not answer any other
request.
"""

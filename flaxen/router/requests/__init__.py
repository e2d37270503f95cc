"""One reader for each API: from the JSON of a body to a RoutedRequest.

Knows: the shapes of the bodies as clients send them. Deliberately does not know: what signals make
of a request, and whether a model can answer it (the model's server checks its own body).
"""

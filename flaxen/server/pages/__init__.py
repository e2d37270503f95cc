"""The pages for people: how to call what is served, and the reference. No outside resource."""

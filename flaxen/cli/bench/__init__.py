"""`flaxen bench`."""

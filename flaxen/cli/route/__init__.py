"""`flaxen route`: a router before models, and what checks and explains its configuration."""

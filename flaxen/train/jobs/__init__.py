"""A fine-tuning job: planned, run, validated, stopped and resumed."""

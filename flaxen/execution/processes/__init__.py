"""One engine over several processes: process 0 plans, and all make the same device calls."""

"""Draft tokens: proposed by a drafter, verified by the step that computes them."""

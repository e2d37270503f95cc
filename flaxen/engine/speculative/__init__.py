"""Draft tokens, proposed by a drafter. The step that computes them verifies them."""

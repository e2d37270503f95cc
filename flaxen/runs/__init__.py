"""Training runs: from a TrainConfig and a model to a trained state, its checkpoints and its result.

`flaxen train` and `flaxen.train` share this room. Knows: models, data, checkpoints, results.
Deliberately does not know: argv, the environment, where a definition came from.
"""

"""LoRA adapters in the engine: the store of loaded ones, and the slots of those in use."""

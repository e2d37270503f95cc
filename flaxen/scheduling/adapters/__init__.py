"""LoRA adapters on the host: the store of loaded ones, and the slots of those in use."""

"""LoRA adapters in the engine: those that it knows, and the slots that hold those in use."""

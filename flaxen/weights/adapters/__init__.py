"""LoRA adapters as files: PEFT's format read and written."""

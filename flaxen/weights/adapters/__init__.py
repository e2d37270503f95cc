"""Reads and writes LoRA adapters in PEFT's format."""

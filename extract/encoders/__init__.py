"""Frozen encoders: one file a kind, named by specs such as `hf:DIR` or `whisper:base`."""

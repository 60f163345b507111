"""The language model: prompts, answers, LoRA, injected pseudo tokens, constrained decoding."""

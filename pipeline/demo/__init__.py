"""The demo corpus: a generator whose best possible score is known."""

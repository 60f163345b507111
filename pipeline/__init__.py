"""The commands, the manifest, training, evaluation, metrics, runs and the report."""

"""The command-line entry points, one file a command."""

"""The command line. Help texts import nothing heavy: jobs, Ray and torch load when a command runs."""

from raysys.cli.main import cli, main

__all__ = ["cli", "main"]

"""A memory service for agents. Importing this package imports nothing else of it."""

__version__ = "0.1.0"

"""Words out to models: reading conversations, and embedding text. Importing this package imports no vendor's."""

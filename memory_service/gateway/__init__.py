"""The memory gateway: sessions as lists of messages, and memories, by the models of agents that were written for it."""

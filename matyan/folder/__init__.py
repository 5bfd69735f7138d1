"""A data folder: who holds it, who feeds it, and the socket at which commands ask. No listener and no printing."""

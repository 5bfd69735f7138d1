"""What records do to the store and what readers see of it, given a transaction. No engine, no clock, no trio."""

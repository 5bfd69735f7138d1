"""What every process has, whatever it serves. No engine, no record and no key."""

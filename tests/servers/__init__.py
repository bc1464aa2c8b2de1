"""The real servers that tests talk to: found, installed or started by the suite, and ended with it."""

"""Faults on the real server process: what was acknowledged is compared with what is read back."""

"""Ops, one a file. The eager torch function is the specification; imports torch and triton only."""

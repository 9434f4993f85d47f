"""Bytes in: the storage SCP, and who and what it lets in."""

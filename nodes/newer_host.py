"""Under its old name for the Segmind nodes."""

from .host.newer_host import needs_host

__all__ = ["needs_host"]

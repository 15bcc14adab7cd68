"""Under its old name for the Segmind nodes."""

from .host.text import show_text

__all__ = ["show_text"]

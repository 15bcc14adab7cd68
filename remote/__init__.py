"""The hosted model over httpx. Never imports comfy or torch."""

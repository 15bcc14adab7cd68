"""The hosted model over httpx, behind one face: `service`. Never imports comfy or torch."""

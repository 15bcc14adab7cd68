"""What Klein is and how it runs, in plain torch. Never imports comfy."""

"""The real ComfyUI: found, entered in this process, or started as a server."""

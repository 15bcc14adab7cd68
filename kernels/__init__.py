"""Ops, one a file. kernels/eager/<op> is the specification. Imports torch, triton and comfy_kitchen only."""

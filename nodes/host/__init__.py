"""What the nodes share of the host: its pictures, models, blocks, memory and text, adapted to plain values."""

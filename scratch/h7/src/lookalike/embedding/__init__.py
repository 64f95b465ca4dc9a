"""The embedding engine: read ahead, decode, batch, forward, write."""

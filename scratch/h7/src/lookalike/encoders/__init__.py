"""Encoders: from preprocessed pixels to vectors, and the identity that says which one wrote a vector."""

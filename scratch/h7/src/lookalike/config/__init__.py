"""The settings of every command: their schemas (the only home of a default) and their composition."""

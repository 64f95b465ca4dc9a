"""The commands: `lookalike`, `embedding`, `tmm`. They parse, call and print; they decide nothing."""

"""What `lookalike check` looks at, one module a subject. Those that hooks use load no pyarrow."""

"""`python -m lookalike`: the command `lookalike`, where its script is not on the path."""

from lookalike.cli.main import main

if __name__ == "__main__":
    main()

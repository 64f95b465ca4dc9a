"""Which pool images may not be mined: unwanted ones, copies of the evaluation set, the targets themselves."""

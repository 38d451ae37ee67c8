"""What a hit, a miss and an import cost, beside the least they could cost, in one run."""

"""Facts shared by every part: errors, schedule, contract, manifest, tiers. Standard library only."""

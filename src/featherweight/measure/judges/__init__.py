"""Models that label answers; one file a protocol. Other packages add theirs in the group `featherweight.judges`."""

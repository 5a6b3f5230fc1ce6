"""Rules that label an answer; one file each. Other packages add theirs in the group `featherweight.detectors`."""

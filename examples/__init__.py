"""What keytrail does, to look at and to run: `make demo`."""

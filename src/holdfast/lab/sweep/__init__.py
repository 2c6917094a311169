"""Many training runs over the values of some settings."""

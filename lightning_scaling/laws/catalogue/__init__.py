"""The laws, one short file each, grouped by what they describe."""

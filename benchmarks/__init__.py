"""How fast this package is, as ratios against what people would use otherwise; run by `make bench`."""

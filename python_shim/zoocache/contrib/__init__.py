"""What ties the cache to other packages: each module here is of one, and needs that alone."""

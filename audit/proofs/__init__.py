"""A record's proof as a small file: made on this host, checked anywhere, offline."""

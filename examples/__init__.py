"""Programs that prune networks of others by the library."""

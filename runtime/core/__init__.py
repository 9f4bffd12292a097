"""What every room needs and no room owns: errors, ids, hashes, time, files, paths."""

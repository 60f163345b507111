"""Stage one: dataset layouts, media decoding, frozen encoders and the HDF5 shard store."""

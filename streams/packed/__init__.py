"""Records in msgpack, many at a time, read and written by compiled code."""

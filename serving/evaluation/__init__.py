"""Logs in ClickHouse and what they say: schema, sink, queries, reports."""

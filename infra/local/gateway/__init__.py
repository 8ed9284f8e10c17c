"""The ClickHouse engine (chDB) behind a ClickHouse HTTP port, so that a laptop is addressed like production."""

//! Link shards: which borglet to poll when, and what changed since.

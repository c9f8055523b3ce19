"""Real Valkey, PostgreSQL and SeaweedFS from wheels on loopback, and `fillfleet up`: the whole system in one place."""

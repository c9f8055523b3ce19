"""Alembic migrations: one expand or contract step a file."""

"""The PostgreSQL backend: the only room that knows SQL, SQLAlchemy and the drivers."""

"""History and users on Aurora PostgreSQL, through the RDS Data API."""

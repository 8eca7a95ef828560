"""What runs inside the functions on AWS: adapters, composition, handlers."""

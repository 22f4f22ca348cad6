"""What annotation tools export, read by content."""

"""What a process says of itself to programs: metrics for Prometheus, and traces."""

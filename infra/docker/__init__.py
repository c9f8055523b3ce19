"""The container images, and the health check that runs inside them."""

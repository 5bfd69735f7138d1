"""The container image: its Dockerfile, and every service as it runs from a built image."""

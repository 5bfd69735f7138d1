"""The routes, by resource: each module has `add(app, served)`."""

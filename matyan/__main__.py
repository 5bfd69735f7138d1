"""`python -m matyan` is `matyan`."""

from matyan.cli.main import main

main()

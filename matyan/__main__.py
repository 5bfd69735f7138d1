"""`python -m matyan` is `matyan`."""

from matyan.cli import main

main()

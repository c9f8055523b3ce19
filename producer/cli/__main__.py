"""`python -m producer.cli`: the same as the `fillfleet` command."""

from producer.cli.main import main

main()

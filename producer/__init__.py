"""Everything that creates jobs or reads them: the HTTP API, the CLI, the dispatcher."""

"""What producers and workers share: settings, the contract, the life of a job, and the doors to the servers."""

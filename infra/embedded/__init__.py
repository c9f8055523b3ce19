"""Real servers from plain wheels on free loopback ports: what the demo, the tests and a laptop use."""

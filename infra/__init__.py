"""How the system is run: embedded servers, containers, the demo and its model."""

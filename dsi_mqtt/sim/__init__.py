"""A site on virtual time, with the machines and the planner that serve: docs/simulation.md."""

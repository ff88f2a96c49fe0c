"""The orchestrator against fixed placements and oracles, on recorded links: docs/evaluation.md."""

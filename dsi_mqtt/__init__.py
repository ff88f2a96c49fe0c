"""Distributed split inference over MQTT, orchestrated at run time."""

"""The update log: what the trainer changed, as frames on the topic `updates` that replicas apply in order."""
